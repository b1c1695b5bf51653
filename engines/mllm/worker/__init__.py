"""What runs within vLLM: its own CPU worker, which can also send hidden states and guess what comes next."""
