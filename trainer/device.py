"""What a training runs on."""

import platform


def name() -> str:
    """Of the GPU, or of the kind of CPU."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU, {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"


def multiplies_bfloat16() -> bool:
    """Whether it has instructions for products in bfloat16: a CPU without takes fifty times as long as in float32."""
    import torch

    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
