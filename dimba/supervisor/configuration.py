"""The configuration that `accelerate launch` gets: written beside the log, so that nobody's own is read instead."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CONFIGURATION_FILE = "accelerate.json"
_COUNTS = ("num_machines", "num_processes", "machine_rank", "main_process_port")


def configured(argv: Sequence[str], path: Path) -> list[str]:
    """`argv` with the configuration that its own flags make, written to `path`; others than accelerate's as is.

    `accelerate` itself would import all of its commands, and transformers with them: a second of every job.
    """
    argv = list(argv)
    if not world_size(argv):
        return argv
    path.write_text(json.dumps(_configuration(argv[2 : argv.index("-m")]), indent=2) + "\n", encoding="utf-8")
    return [sys.executable, "-P", "-m", "accelerate.commands.launch", "--config_file", str(path), *argv[2:]]


def world_size(argv: Sequence[str]) -> int:
    """How many ranks `argv` asks for; 0 where it is nothing of accelerate's."""
    if list(argv[:2]) != ["accelerate", "launch"]:
        return 0
    return int(_given(argv[2 : argv.index("-m")]).get("num_processes", 0))


def _configuration(flags: Sequence[str]) -> dict[str, Any]:
    given = _given(flags)
    kinds = {"use_fsdp": "FSDP", "multi_gpu": "MULTI_GPU"}
    kind = next((value for flag, value in kinds.items() if given.pop(flag, None)), "NO")
    fsdp = {name: given.pop(name) for name in [*given] if name.startswith("fsdp_")}
    counts = {name: int(given[name]) for name in _COUNTS if name in given}
    places: dict[str, Any] = {name: given[name] for name in ("mixed_precision", "main_process_ip") if name in given}
    made: dict[str, Any] = {"compute_environment": "LOCAL_MACHINE", "distributed_type": kind, "use_cpu": "cpu" in given}
    return {**made, **counts, **places, **({"fsdp_config": fsdp} if fsdp else {})}


def _given(flags: Sequence[str]) -> dict[str, Any]:
    """The value of each flag, True for one without."""
    found: dict[str, Any] = {}
    for flag, value in zip(flags, [*flags[1:], "--"], strict=True):
        if flag.startswith("--"):
            found[flag.removeprefix("--")] = True if value.startswith("--") else value
    return found
