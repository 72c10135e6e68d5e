"""vLLM servers elsewhere as an engine: the same port over HTTP, token ids in and out."""
