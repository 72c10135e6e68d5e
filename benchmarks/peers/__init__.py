"""What other gateways and redraft make of the same vLLM server: `python -m benchmarks.peers`.

OptiLLM and its_hub, each in a virtual environment of its own, and redraft stand in front of one `vllm serve`; redraft
with an engine of its own stands beside. What a gateway costs is told by vLLM, not by the gateway: tokens are the
differences of its /metrics, and sampling parameters those that its engine was given.
"""
