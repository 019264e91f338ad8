"""vLLM's server, as TRL's trainers expect it, in place of this process. The supervisor starts and ends it."""

import argparse
import os
import sys

_MEMORY = 0.9  # share of a GPU that nothing else uses


def main(argv: list[str]) -> None:
    """Becomes the server; its weights are random until the trainer sends its own."""
    from trl.scripts.vllm_serve import ScriptArguments, build_command

    options = _parser().parse_args(argv)
    arguments = ScriptArguments(
        model=options.model,
        tensor_parallel_size=options.gpus,
        host=options.host,
        port=options.port,
        gpu_memory_utilization=_MEMORY,
        dtype=options.dtype,
        max_model_len=options.max_length,
        trust_remote_code=options.trust_remote_code,
        log_level="warning",
    )
    extra = ["--load-format", "dummy", "--generation-config", "vllm", "--seed", str(options.seed)]
    # The endpoints that take weights are of its development mode; it listens on this machine alone.
    os.environ |= {"VLLM_SERVER_DEV_MODE": "1", "VLLM_NO_USAGE_STATS": "1"}
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.execv(sys.executable, build_command(arguments, extra))  # noqa: S606  # there is no shell


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Sample for a GRPO job on GPUs of its own.")
    for name in ("--model", "--dtype", "--host"):
        parser.add_argument(name, required=True)
    for name in ("--gpus", "--max-length", "--seed", "--port"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--trust-remote-code", action="store_true")
    return parser


if __name__ == "__main__":
    main(sys.argv[1:])
