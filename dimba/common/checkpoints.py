"""Which checkpoints are whole: what a run goes on from, and what is kept. Both sides of the container wall ask."""

import json
import re
from pathlib import Path
from typing import Any

from dimba.common.contract import WHOLE_FILE

CONFIGS = ("config.json", "tokenizer_config.json")  # in which a checkpoint can name code of its own
_NAME = re.compile(r"checkpoint-(\d+)")


def names_code(config: Any) -> bool:
    """Whether a configuration asks for code that is not transformers' own: `auto_map`, or a kernel from the Hub."""
    if not isinstance(config, dict):
        return False
    kernels = [config.get(name) for name in ("attn_implementation", "_attn_implementation")]
    return (
        bool(config.get("auto_map"))
        or any(isinstance(each, str) and "/" in each for each in kernels)
        or any(map(names_code, config.values()))
    )


def step_of(folder: Path) -> int:
    """The step in a checkpoint's name; -1 for another folder."""
    match = _NAME.fullmatch(folder.name)
    return int(match[1]) if match else -1


def file_sizes(folder: Path) -> dict[str, int]:
    """Every file below `folder`, by its place there, in bytes; the note of wholeness apart."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.stat().st_size for path in files if path.name != WHOLE_FILE}


def is_whole(folder: Path) -> bool:
    """Whether everything that the note of its writer names is there, at its size."""
    try:
        noted = json.loads((folder / WHOLE_FILE).read_text(encoding="utf-8"))["files"]
        return bool(noted) and noted.items() <= file_sizes(folder).items()
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return False


def whole_checkpoints(output_dir: Path) -> list[Path]:
    """Those that are whole, by step, the newest last."""
    found = [each for each in output_dir.glob("checkpoint-*") if step_of(each) >= 0 and is_whole(each)]
    return sorted(found, key=step_of)


def newest_whole(output_dir: Path) -> Path | None:
    """Where a run in this folder goes on; None where it starts over."""
    return next(reversed(whole_checkpoints(output_dir)), None)
