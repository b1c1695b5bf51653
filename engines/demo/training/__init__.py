"""The trainer of the demo bundle: samples, packed sequences, losses and the loop."""
