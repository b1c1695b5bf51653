"""The language model's side: answer grammar, prompts, vLLM's two roles over HTTP, and their launcher."""
