"""Where the time of a request goes: stages as a timeline, the gateway's own code as a flame graph."""
