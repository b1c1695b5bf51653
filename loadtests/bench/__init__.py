"""Side-by-side benchmarks: this server, the plain reference, others serving that reference, and the raw parts."""
