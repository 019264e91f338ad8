"""A file of torch, read without running any code that it may bring."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from dimba.common.errors import BadInput, first_line

_PARTS = ("model_state_dict", "config")
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
_OTHER = "give a checkpoint that the original's training saved"
_WHOLE = "give the file with `model_state_dict`, `config` and `mask_id`, as the original's training saves it"
_AGAIN = "copy it again from where it was made, and compare its size"


def read_checkpoint(file: Path) -> dict[str, Any]:
    """The content, with its weights left on disk until they are used.

    Raises:
        BadInput: it is no file of torch, it is damaged, loading it would run code, or it lacks a part.
    """
    found = _loaded(file)
    if not isinstance(found, dict):
        raise BadInput(f"holds a {type(found).__name__}, not a checkpoint with {_listed(_PARTS)}", _OTHER)
    if found and all(map(torch.is_tensor, found.values())):
        raise BadInput("holds tensors alone: sizes and the mask token are not known without `config`", _WHOLE)
    if missing := [name for name in _PARTS if not isinstance(found.get(name), dict)]:
        has = _listed(sorted(map(str, found))[:8]) or "nothing"
        raise BadInput(f"lacks {_listed(missing)}; it has {has}", _OTHER)
    others = [str(name) for name, each in found["model_state_dict"].items() if not torch.is_tensor(each)]
    if others:
        raise BadInput(f"has no tensor under {_listed(others[:5])} of `model_state_dict`", _AGAIN)
    return found


def _loaded(file: Path) -> object:
    is_archive = file.open("rb").read(2) == b"PK"  # else of torch before 1.6, which cannot be mapped
    if is_archive:
        _check_archive(file)
    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=is_archive)
    except MemoryError:
        raise
    except Exception as error:  # the library raises whatever it stumbles on in the file
        raise _refusal(error, is_archive=is_archive) from error


def _check_archive(file: Path) -> None:
    """Raises BadInput for a zip archive whose end is missing, and for one of other things than a checkpoint."""
    try:
        names = zipfile.ZipFile(file).namelist()
    except zipfile.BadZipFile as error:
        raise BadInput("is cut short or damaged: its zip archive has no end", _AGAIN) from error
    if not any(name.endswith("/data.pkl") for name in names):
        raise BadInput(f"is a zip archive without a checkpoint of torch: it holds {_listed(names[:3])}", _OTHER)


def _refusal(error: Exception, *, is_archive: bool) -> BadInput:
    text = str(error)
    if unsafe := _GLOBAL.search(text):
        problem = f"is a pickle that names `{unsafe[1]}`, which could run code: it was not loaded"
        return BadInput(problem, "save it again with tensors, numbers and texts alone")
    if is_archive:
        return BadInput(f"is damaged or cut short: {first_line(error)}", _AGAIN)
    return BadInput("is no file that torch saved, or it is damaged", _AGAIN)


def _listed(names: Any) -> str:
    return ", ".join(f"`{name}`" for name in names)
