"""The folder of an export: written aside on the same disk, and renamed into place when it is proven."""

import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dimba.commands.export.request import ExportRequest
from dimba.common.contract import EXPORT_FILE, absolute, read_json_object
from dimba.common.errors import BadInput, HostCannot
from dimba.common.units import size
from dimba.jobs.model_source import ModelSource
from dimba.records.store import make_folder, write_atomically

_MARGIN = 1.05
_BESIDE = 64 << 20  # bytes: tokenizer, card and the like
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_STORED = {"F64": 8, "F32": 4, "BF16": 2, "F16": 2}
_OF_A_TYPE = ("type", "files", "proof", "bounds", "created")  # what is kept of export.json
_FULL = "free space there, or give a folder on another disk"


def target_of(request: ExportRequest, source: ModelSource, kind: str) -> Path:
    """The folder of an export: `--out`, else one in the model's own folder."""
    return absolute(request.out) if request.out else source.folder / kind


def require_free(target: Path) -> None:
    """Raises BadInput for a target that holds something else than an export; an earlier export is replaced."""
    if target.is_dir() and not any(target.iterdir()):
        return
    if target.exists() and not (target / EXPORT_FILE).is_file():
        hint = "move it away, or give another folder with `--out`"
        raise BadInput(f"{target} exists, and is no export of dimba", hint, key="--out")


def needed_bytes(request: ExportRequest, source: ModelSource, kind: str) -> int:
    """The disk that an export takes while it is made; 0 if the size of the base is not known here."""
    facts = source.facts.checkpoint
    stored = facts.weight_bytes or (0 if source.trained.is_adapter else source.weight_bytes)
    weights = stored // _STORED.get(facts.dtype or "", 2)
    merged = weights * (_BYTES.get(request.dtype) or _STORED.get(facts.dtype or "", 2))
    files = 0 if kind == "merged" else weights * 4  # a first file in half precision, then the quantised one
    return int((merged + files) * _MARGIN) + _BESIDE if stored else 0


def require_room(target: Path, needed: int, key: str = "--out") -> None:
    """Raises HostCannot if the disk of `target` has less free than `needed` bytes."""
    place = next(each for each in (target, *target.parents) if each.exists())
    try:
        free = shutil.disk_usage(place).free
    except OSError:
        return
    if needed > free:
        raise HostCannot(f"{target} needs {size(needed)}, and its disk has {size(free)} free", _FULL, key=key)


@contextmanager
def aside(target: Path, uid: int, gid: int) -> Iterator[Path]:
    """An empty folder beside `target` for the job's user, which takes its place if the block succeeds.

    Raises:
        HostCannot: it cannot be made.
    """
    made = [each for each in (target.parent, *target.parent.parents) if not each.exists()]
    folder = target.parent / f".{target.name}.{secrets.token_hex(4)}.part"
    try:
        make_folder(folder, uid, gid)
        yield folder
        _replace(folder, target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # a folder with files in it stays
            for each in made:
                each.rmdir()


def keep_earlier(target: Path, folder: Path, uid: int, gid: int) -> None:
    """Carries the files of an earlier export of the same run, of other types, over into the new `folder`."""
    old, new = read_json_object(target / EXPORT_FILE), read_json_object(folder / EXPORT_FILE)
    if not new.get("type") or not new.get("run") or old.get("run") != new["run"] or not old.get("type"):
        return
    found = {**(old.get("others") or {}), old["type"]: {name: old.get(name) for name in _OF_A_TYPE}}
    others = {kind: each for kind, each in found.items() if kind != new["type"] and _link(each, target, folder)}
    if others:
        data = json.dumps({**new, "others": others}, indent=2, ensure_ascii=False) + "\n"
        write_atomically(folder / EXPORT_FILE, data.encode(), uid, gid)


def _link(earlier: Mapping[str, Any], target: Path, folder: Path) -> bool:
    """Gives the model's files of an earlier export a second name in `folder`; returns whether all are there."""
    names = [name for name in earlier.get("files") or () if str(name).endswith(".gguf")]
    if not names or not all((target / name).is_file() for name in names):
        return False
    for name in names:
        (folder / name).unlink(missing_ok=True)
        os.link(target / name, folder / name)
    return True


def _replace(folder: Path, target: Path) -> None:
    old = folder.with_suffix(".old")
    try:
        if target.exists():
            target.rename(old)
        folder.rename(target)
    except OSError as error:
        if old.exists() and not target.exists():
            old.rename(target)
        raise HostCannot(str(error.strerror), "give a folder that you may write in", file=target) from None
    shutil.rmtree(old, ignore_errors=True)
    _flush(target.parent)


def _flush(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
