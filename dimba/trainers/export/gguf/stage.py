"""The folder that llama.cpp's converter reads: the model's files by links, and what it misses written beside them."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dimba.common.contract import read_json_object
from dimba.trainers.export.gguf.spm import is_sentencepiece

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")
_REWRITTEN = ("config.json", "tokenizer_config.json")


@contextmanager
def staged(
    model_folder: Path, place: Path | None = None, *, weights: bool = True, prefix_space: bool = True
) -> Iterator[Path]:
    """A temporary folder in `place` with the model as the converter wants it, without any code of its own.

    Without `prefix_space`, llama.cpp puts no space in front of a text.
    """
    with tempfile.TemporaryDirectory(dir=place, prefix=".gguf-") as name:
        folder = Path(name) / "model"
        folder.mkdir()
        for file in model_folder.iterdir():
            if file.suffix == ".py" or file.name in _REWRITTEN or (not weights and _is_weight(file)):
                continue
            (folder / file.name).symlink_to(file.resolve())
        if is_sentencepiece(model_folder) and not (folder / "tokenizer.model").exists():
            (folder / "tokenizer.model").touch()  # some classes look whether it is there; `spm` reads tokenizer.json
        for file_name, value in _rewritten(model_folder, prefix_space).items():
            (folder / file_name).write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
        yield folder


def _is_weight(file: Path) -> bool:
    return file.suffix in _WEIGHTS or file.name.endswith(".index.json")


def _rewritten(model_folder: Path, prefix_space: bool) -> dict[str, Mapping[str, Any]]:
    """The configurations, with what the converter misses in those of transformers 5."""
    config = _without_code(read_json_object(model_folder / "config.json"))
    if "n_positions" in config:
        config.setdefault("n_ctx", config["n_positions"])  # GPT-2
    tokenizer = _without_code(read_json_object(model_folder / "tokenizer_config.json"))
    if not prefix_space:
        tokenizer["add_prefix_space"] = False
    return {"config.json": config, "tokenizer_config.json": tokenizer}


def _without_code(values: dict[str, Any]) -> dict[str, Any]:
    """The values without `auto_map`: the converter would run that code, asked for or not."""
    return {key: value for key, value in values.items() if key != "auto_map"}
