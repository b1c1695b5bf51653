"""Several vLLM servers of one role: which one is asked, which ones are left out, and when they come back."""
