"""Engines behind the strategies' Engine port. `embedded` runs vLLM's AsyncLLM in this process."""
