"""The refusals of a base: those of any training, and those of a method or a length."""

from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dimba.common.checkpoint.adapter import adapter_refusal
from dimba.common.checkpoint.files import Checkpoint, Unreadable, incomplete_refusal, read_checkpoint
from dimba.common.checkpoint.kind import Kind, kind_of
from dimba.common.checkpoint.positions import positions_of
from dimba.common.checkpoint.quantization import quantization_of
from dimba.common.checkpoint.refusal import Refusal
from dimba.common.checkpoint.releases import unknown_here
from dimba.common.checkpoint.tokenizer import tokenizer_needs, tokenizer_refusal, vocabulary_refusal
from dimba.common.checkpoint.weights import weights_refusal
from dimba.common.errors import BadInput

KindOf = Callable[[Mapping[str, Any]], Kind]  # of config.json, as a family of models reads it


def refusal_of(checkpoint: Checkpoint, kind: KindOf = kind_of) -> Refusal | None:
    """The reason why no method trains this checkpoint as a language model; None if there is none."""
    return adapter_refusal(checkpoint.folder) or kind(checkpoint.config).refusal or weights_refusal(checkpoint)


def refusal_for_method(
    checkpoint: Checkpoint, method: str, max_length: int | None, is_installed: Callable[[str], bool]
) -> Refusal | None:
    """The reason why `method` (full, lora, qlora) with rows of `max_length` tokens cannot train it."""
    quantization, positions = quantization_of(checkpoint), positions_of(checkpoint)
    refusal = quantization.refusal(method, is_installed) if quantization else None
    if refusal is None and positions and max_length:
        return positions.refusal(max_length, "--max-length ")
    return refusal


def check_base(
    folder: Path,
    method: str,
    max_length: int | None = None,
    key: str = "--base-checkpoint",
    *,
    kind_of: KindOf = kind_of,
) -> None:
    """Raises BadInput, which names `key`, if the checkpoint in `folder` cannot be trained by `method`.

    Packages are looked for in this process. Weights are left to loading, which compares every tensor.
    """
    if not (folder / "config.json").is_file():
        return  # loading reports it
    try:
        checkpoint = read_checkpoint(folder)
    except Unreadable as error:
        raise BadInput(f"{folder} {error.refusal.problem}", error.refusal.hint, key=key) from error
    except OSError:
        return
    kind = kind_of(checkpoint.config)
    found = adapter_refusal(folder) or incomplete_refusal(folder) or kind.refusal or unknown_here(kind.library_type)
    found = found or refusal_for_method(checkpoint, method, max_length, is_installed)
    if found:
        raise BadInput(f"{folder} {found.problem}", found.hint, key=key)


def check_tokenizer(folder: Path, key: str = "--base-checkpoint") -> None:
    """Raises BadInput, which names `key`, if the tokenizer in `folder` lacks a file or a package."""
    if not folder.is_dir():
        return  # loading reports it
    found = vocabulary_refusal(folder) or tokenizer_refusal(folder, tokenizer_needs(folder), is_installed)
    if found:
        raise BadInput(f"{folder} {found.problem}", found.hint, key=key)


def is_installed(package: str) -> bool:
    """Whether this process can import the package."""
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):
        return False
