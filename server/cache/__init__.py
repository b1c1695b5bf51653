"""Redis as the level of the caches that replicas share, and what keeps its faults away from requests."""
