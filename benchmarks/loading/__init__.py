"""How a server bears many users: `python -m benchmarks.loading`.

They come by a Poisson process, or so many of them ask again as soon as they are answered. Plain requests are sent by
vLLM's own `vllm bench serve`, what strategies answer by this package, for it also times thoughts.
"""
