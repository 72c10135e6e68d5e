"""The HTTP gateway: validates a request, resolves its strategy, runs it on the engine and renders the result."""
