"""The configuration file of `accelerate launch`, written beside the log so that the user's own one is not read."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CONFIGURATION_FILE = "accelerate.json"
_COUNTS = ("num_machines", "num_processes", "machine_rank", "main_process_port")


def with_configuration(argv: Sequence[str], path: Path) -> list[str]:
    """`argv` with the flags of `accelerate launch` written to `path` as its configuration; other commands unchanged.

    It starts accelerate's launch module: the `accelerate` command imports all of its subcommands and transformers,
    which takes a second of every job.
    """
    argv = list(argv)
    if not rank_count(argv):
        return argv
    path.write_text(json.dumps(_configuration(argv[2 : argv.index("-m")]), indent=2) + "\n", encoding="utf-8")
    return [sys.executable, "-P", "-m", "accelerate.commands.launch", "--config_file", str(path), *argv[2:]]


def rank_count(argv: Sequence[str]) -> int:
    """The number of ranks that `argv` asks accelerate for; 0 for another command."""
    if list(argv[:2]) != ["accelerate", "launch"]:
        return 0
    return int(_flag_values(argv[2 : argv.index("-m")]).get("num_processes", 0))


def _configuration(flags: Sequence[str]) -> dict[str, Any]:
    values = _flag_values(flags)
    kinds = {"use_fsdp": "FSDP", "multi_gpu": "MULTI_GPU"}
    kind = next((name for flag, name in kinds.items() if values.pop(flag, None)), "NO")
    fsdp = {name: values.pop(name) for name in [*values] if name.startswith("fsdp_")}
    counts = {name: int(values[name]) for name in _COUNTS if name in values}
    texts: dict[str, Any] = {name: values[name] for name in ("mixed_precision", "main_process_ip") if name in values}
    machine: dict[str, Any] = {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": kind,
        "use_cpu": "cpu" in values,
    }
    return {**machine, **counts, **texts, **({"fsdp_config": fsdp} if fsdp else {})}


def _flag_values(flags: Sequence[str]) -> dict[str, Any]:
    """The value of each flag; True for a flag without a value."""
    values: dict[str, Any] = {}
    for flag, value in zip(flags, [*flags[1:], "--"], strict=True):
        if flag.startswith("--"):
            values[flag.removeprefix("--")] = True if value.startswith("--") else value
    return values
