"""One vLLM server in place of two: it sends the hidden states of what it writes and reads to the gateway's inbox."""
