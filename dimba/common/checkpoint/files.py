"""Reading a checkpoint's folder: config.json and the headers of the safetensors files that transformers would load."""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dimba.common.checkpoint.refusal import Refusal

INDEX, PICKLED_INDEX = "model.safetensors.index.json", "pytorch_model.bin.index.json"
SINGLE = "model.safetensors"
_OTHERS = {
    ".gguf": "llama.cpp (GGUF)",
    ".ggml": "llama.cpp (GGML)",
    ".onnx": "ONNX",
    ".h5": "TensorFlow",
    ".msgpack": "Flax",
    ".nemo": "NeMo",
    ".tflite": "TensorFlow Lite",
}
_POINTER = b"version "  # the first bytes of what git leaves in place of a large file
_MAX_HEADER = 100 << 20

Tensors = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Checkpoint:
    """A folder with its config.json and the header of every tensor: `dtype`, `shape` and `data_offsets` by name."""

    folder: Path
    config: Mapping[str, Any]
    tensors: Tensors

    @cached_property
    def text_config(self) -> Mapping[str, Any]:
        """The configuration of the language model: a part of a multimodal one, else all of it."""
        for name in ("text_config", "llm_config", "language_config"):
            text = self.config.get(name)
            if isinstance(text, Mapping):
                return {**self.config, **text}
        return self.config


def read_checkpoint(folder: Path) -> Checkpoint:
    """The checkpoint in `folder`, without tensors if it has no safetensors.

    Raises:
        OSError: a file cannot be read.
        ValueError: config.json or a header is broken, or a file is cut off.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if not isinstance(config, dict):
        raise ValueError("config.json is not an object")
    try:
        headers = [read_header(file) for file in weight_files(folder)]
    except (TypeError, KeyError, IndexError, AttributeError, struct.error) as error:
        raise ValueError(f"a header of its safetensors is broken: {error!r}") from error
    return Checkpoint(folder, config, {name: tensor for header in headers for name, tensor in header.items()})


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that transformers would load; all of them if it would find none."""
    if (folder / SINGLE).exists():
        return [folder / SINGLE]
    named = [folder / name for name in indexed_files(folder)]
    return [file for file in named if file.exists()] or sorted(folder.glob("*.safetensors"))


def unnamed_files_refusal(folder: Path) -> Refusal | None:
    """The refusal of safetensors under names that transformers does not look for."""
    files = sorted(file.name for file in folder.glob("*.safetensors"))
    if not files or any((folder / name).exists() for name in (SINGLE, INDEX, "pytorch_model.bin", PICKLED_INDEX)):
        return None
    if len(files) == 1:
        problem = f"has its weights in {files[0]}, and transformers looks for {SINGLE}"
        return Refusal(problem, f"`cd {folder} && mv {files[0]} {SINGLE}`")
    problem = f"has {len(files)} files of weights ({files[0]}, …) without {INDEX}, which names them"
    return Refusal(problem, f"copy {INDEX} of the same checkpoint there")


def other_format_refusal(place: Path) -> Refusal | None:
    """The refusal of weights in a format of another library, in a folder or as a file."""
    files = sorted(place.iterdir()) if place.is_dir() else [place]
    if any(file.suffix in (".safetensors", ".bin") for file in files):
        return None
    found = next(((file.name, _OTHERS[file.suffix]) for file in files if file.suffix in _OTHERS), None)
    if found is None:
        return None
    problem = f"holds {found[0]}" if place.is_dir() else "is a file"
    hint = "give the model that it was made from, as a folder of safetensors or its Hub id"
    return Refusal(f"{problem} in the format of {found[1]}, which is not trained from", hint)


def indexed_files(folder: Path, index: str = INDEX) -> list[str]:
    """The names of the files that the index lists; empty if there is no index, or a broken one."""
    try:
        listed = json.loads((folder / index).read_text(encoding="utf-8"))["weight_map"].values()
        return sorted({str(name) for name in listed})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


def read_header(file: Path) -> dict[str, dict[str, Any]]:
    """The header of each tensor in a safetensors file, by name. Raises ValueError for a broken file."""
    with file.open("rb") as handle:
        start = handle.read(8)
        if start == _POINTER:
            raise ValueError(f"{file.name} is a git-lfs pointer, not the weights")
        (size,) = struct.unpack("<Q", start)
        if size > _MAX_HEADER:
            raise ValueError(f"{file.name} is not a safetensors file")
        try:
            header: dict[str, Any] = json.loads(handle.read(size))
        except ValueError:
            raise ValueError(f"the header of {file.name} is broken or cut off") from None
    tensors = {name: tensor for name, tensor in header.items() if name != "__metadata__"}
    end = max((tensor["data_offsets"][1] for tensor in tensors.values()), default=0)
    if file.stat().st_size < 8 + size + end:
        raise ValueError(f"{file.name} ends early: {file.stat().st_size:,} of {8 + size + end:,} bytes")
    return tensors
