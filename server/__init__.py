"""The gateway of r2sm-server: HTTP and the command line. What it serves lives in `engines`."""
