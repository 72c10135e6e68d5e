"""What can go wrong before there is a model to serve."""


class ModelError(Exception):
    """No model can be served as asked. The text says why, and what to do, in words for the operator."""
