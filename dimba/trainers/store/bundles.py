"""Folders in a store that are complete or absent: their manifest is written last and removed first."""

import hashlib
import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from dimba.common.contract import read_json_object
from dimba.common.output_store import MANIFEST
from dimba.trainers.store.filesystem import OnBytes, Store, uncounted

Files = Mapping[str, tuple[int, str]]  # by name: size in bytes, sha256
_CHECKPOINT = re.compile(r"checkpoint-(\d{1,18})")


class Damaged(OSError):
    """A file of the store is not what its manifest has."""


@dataclass(frozen=True)
class Bundle:
    """A local folder, or some files of one, under its name in the store; `note` keeps what was sent already."""

    name: str
    folder: Path
    files: tuple[str, ...]
    note: Path

    @property
    def sizes(self) -> dict[str, int]:
        """The size of each file in bytes."""
        return {name: (self.folder / name).stat().st_size for name in self.files}


def step_in(name: str) -> int:
    """The step in a checkpoint's name; -1 for another name."""
    match = _CHECKPOINT.fullmatch(name)
    return int(match[1]) if match else -1


def manifest_of(store: Store, name: str) -> Files | None:
    """The files of a complete folder; None if it is not complete."""
    try:
        listed = store.read_json(f"{name}/{MANIFEST}")["files"]
        files = {str(key): (int(value["size"]), str(value["sha256"])) for key, value in listed.items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    return files if files and all(map(_is_inside, files)) else None


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name and path.name != MANIFEST


def complete_checkpoints(store: Store) -> list[str]:
    """The names of the complete checkpoints, the newest last."""
    found = sorted((name for name in store.folders() if step_in(name) >= 0), key=step_in)
    return [name for name in found if manifest_of(store, name) is not None]


def send(store: Store, bundle: Bundle, on_bytes: OnBytes = uncounted) -> None:
    """Makes the folder in the store equal to the bundle; files that an earlier try has sent stay."""
    target = store.below(bundle.name)
    if (before := manifest_of(store, bundle.name)) is not None:
        if _is_equal(before, bundle):
            return
        store.delete(f"{bundle.name}/{MANIFEST}")
    bundle.note.parent.mkdir(exist_ok=True)
    sizes, sent, there = bundle.sizes, read_json_object(bundle.note), target.sizes()
    for name in there.keys() - sizes.keys():
        target.delete(name)
    for name, size in sizes.items():
        if name in sent and there.get(name) == size:
            on_bytes(size)
            continue
        sent[name] = target.put_file(name, bundle.folder / name, on_bytes)
        bundle.note.write_text(json.dumps(sent), encoding="utf-8")
    _require_sizes(target, bundle, sizes)
    files = {name: {"size": size, "sha256": sent[name]} for name, size in sizes.items()}
    target.put(MANIFEST, json.dumps({"files": files}, indent=1).encode())


def _require_sizes(target: Store, bundle: Bundle, sizes: Mapping[str, int]) -> None:
    there = target.sizes()
    if wrong := [name for name, size in sizes.items() if there.get(name) != size]:
        bundle.note.unlink(missing_ok=True)
        raise Damaged(f"{bundle.name}/{wrong[0]} has {there.get(wrong[0])} of {sizes[wrong[0]]} bytes in the store")


def _is_equal(there: Files, bundle: Bundle) -> bool:
    sizes = bundle.sizes
    if {name: size for name, (size, _) in there.items()} != sizes:
        return False
    return all(file_hash(bundle.folder / name) == digest for name, (_, digest) in there.items())


def file_hash(path: Path) -> str:
    """The sha256 of a local file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def remove(store: Store, name: str) -> None:
    """Removes a folder, its manifest first."""
    store.delete(f"{name}/{MANIFEST}")
    store.delete_folder(name)


def remove_older(store: Store, kept: Collection[str]) -> list[str]:
    """Removes the checkpoints before the newest of `kept`, and returns their names; one of `kept` must be complete."""
    newest = max(map(step_in, kept))
    old = [name for name in store.folders() if 0 <= step_in(name) < newest and name not in kept]
    for name in old:
        remove(store, name)
    return old


def bring(store: Store, name: str, folder: Path, on_bytes: Callable[[int], Any] = uncounted) -> None:
    """Copies a complete folder into an empty local one; raises Damaged if a file is not what the manifest has."""
    files = manifest_of(store, name) or {}
    for each, (size, digest) in files.items():
        path = folder / each
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            found = store.get_file(f"{name}/{each}", path, on_bytes)
        except FileNotFoundError:
            raise Damaged(f"{name}/{each} is missing in the store") from None
        if path.stat().st_size != size or found != digest:
            raise Damaged(f"{name}/{each} is not what its manifest has")
