"""Keeps the logits processors of installed packages out of `vllm serve`, which knows no flag for that.

`register` is a vLLM plugin (group `vllm.general_plugins`), announced to the one process that is to run without them.
"""

NAME = "redraft_bare_vllm"


def register() -> None:
    """VLLM calls it in each of its processes, before it loads logits processors."""
    from vllm.v1.sample import logits_processor

    logits_processor._load_logitsprocs_plugins = list
