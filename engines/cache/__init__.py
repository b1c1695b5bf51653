"""The parts of a cache in two levels, this process's memory and one that replicas share; no network in here."""
