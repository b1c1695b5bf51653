"""The routes, one subject to a file."""
