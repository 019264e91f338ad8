"""Which checkpoints are complete, for both sides of the container wall: runs resume from these alone."""

import json
import re
from pathlib import Path
from typing import Any

from dimba.common.contract import COMPLETE_FILE

CONFIGS = ("config.json", "tokenizer_config.json")  # the files that can name code of a checkpoint's own
_NAME = re.compile(r"checkpoint-(\d+)")


def asks_for_code(config: Any) -> bool:
    """Whether a configuration needs code from outside transformers: `auto_map`, or a kernel from the Hub."""
    if not isinstance(config, dict):
        return False
    kernels = [config.get(name) for name in ("attn_implementation", "_attn_implementation")]
    return (
        bool(config.get("auto_map"))
        or any(isinstance(each, str) and "/" in each for each in kernels)
        or any(map(asks_for_code, config.values()))
    )


def step_of(folder: Path) -> int:
    """The step in the name of a checkpoint's folder; -1 for other folders."""
    match = _NAME.fullmatch(folder.name)
    return int(match[1]) if match else -1


def file_sizes(folder: Path) -> dict[str, int]:
    """The size in bytes of every file below `folder`, by relative path, without the list that marks it complete."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.stat().st_size for path in files if path.name != COMPLETE_FILE}


def is_complete(folder: Path) -> bool:
    """Whether the folder has every file, at its size, that the writer listed when it finished."""
    try:
        listed = json.loads((folder / COMPLETE_FILE).read_text(encoding="utf-8"))["files"]
        return bool(listed) and listed.items() <= file_sizes(folder).items()
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return False


def complete_checkpoints(output_dir: Path) -> list[Path]:
    """The complete checkpoints of a folder by step, the newest last."""
    found = [each for each in output_dir.glob("checkpoint-*") if step_of(each) >= 0 and is_complete(each)]
    return sorted(found, key=step_of)


def newest_checkpoint(output_dir: Path) -> Path | None:
    """The checkpoint from which a run in this folder resumes; None if it has to start over."""
    return next(reversed(complete_checkpoints(output_dir)), None)
