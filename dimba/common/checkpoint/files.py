"""Reading a checkpoint's folder: config.json and the headers of the safetensors files that transformers would load."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dimba.common.checkpoint.refusal import Refusal

INDEX, PICKLED_INDEX = "model.safetensors.index.json", "pytorch_model.bin.index.json"
SINGLE, PICKLED = "model.safetensors", "pytorch_model.bin"
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
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_BROKEN = "copy the checkpoint again: a file is broken"

Tensors = Mapping[str, Mapping[str, Any]]


class Unreadable(ValueError):
    """A checkpoint with a broken file; `refusal` has the way out."""

    def __init__(self, problem: str, hint: str = _BROKEN) -> None:
        super().__init__(problem)
        self.refusal = Refusal(f"cannot be read: {problem}", hint)


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
        Unreadable: config.json or a header is broken, or a file is cut off.
    """
    config = _read_config(folder / "config.json")
    try:
        headers = [read_header(file) for file in weight_files(folder)]
    except (TypeError, KeyError, IndexError, AttributeError) as error:
        raise Unreadable(f"a header of its safetensors is broken: {error!r}") from error
    return Checkpoint(folder, config, {name: tensor for header in headers for name, tensor in header.items()})


def _read_config(file: Path) -> dict[str, Any]:
    content = file.read_bytes()
    if content.startswith(_BYTE_ORDER_MARK):  # which transformers does not skip
        raise Unreadable(f"{file.name} begins with a byte order mark", rf"`sed -i '1s/^\xEF\xBB\xBF//' {file}`")
    try:
        config = json.loads(content.decode())
    except ValueError as error:
        raise Unreadable(f"{file.name} is not JSON in UTF-8: {error}") from error
    if not isinstance(config, dict):
        raise Unreadable(f"{file.name} is not an object")
    return config


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


def incomplete_refusal(folder: Path) -> Refusal | None:
    """The refusal of files that an index names and the folder lacks, or of a broken index."""
    if (folder / SINGLE).exists():  # transformers then reads no index
        return None
    index = next((name for name in (INDEX, PICKLED, PICKLED_INDEX) if (folder / name).exists()), PICKLED)
    if index == PICKLED:
        return None
    named = indexed_files(folder, index)
    if not named:
        return Refusal(f"has a broken {index}", f"copy {index} of the same checkpoint there")
    missing = [name for name in named if not (folder / name).exists()]
    more = f" and {len(missing) - 1} more of {len(named)} files" if len(missing) > 1 else ""
    problem = f"lacks {missing[0]}{more}, which its index names" if missing else ""
    return Refusal(problem, "copy the checkpoint again: it is incomplete") if missing else None


def read_header(file: Path) -> dict[str, dict[str, Any]]:
    """The header of each tensor in a safetensors file, by name. Raises Unreadable for a broken file."""
    with file.open("rb") as handle:
        start = handle.read(8)
        if start == _POINTER:
            raise Unreadable(
                f"{file.name} is a git-lfs pointer, not the weights", f"`cd {file.parent} && git lfs pull`"
            )
        size = int.from_bytes(start, "little")
        if len(start) < 8 or size > _MAX_HEADER:
            raise Unreadable(f"{file.name} is {'not a safetensors file' if start else 'empty'}")
        try:
            header: dict[str, Any] = json.loads(handle.read(size))
        except ValueError:
            raise Unreadable(f"the header of {file.name} is broken or cut off") from None
    tensors = {name: tensor for name, tensor in header.items() if name != "__metadata__"}
    end = max((tensor["data_offsets"][1] for tensor in tensors.values()), default=0)
    if file.stat().st_size < 8 + size + end:
        raise Unreadable(f"{file.name} ends early: {file.stat().st_size:,} of {8 + size + end:,} bytes")
    return tensors
