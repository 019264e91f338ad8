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

PIECE = 64 << 30  # bytes: pyarrow sends 10,000 parts of 10 MB at most, so that larger files are cut
_CHECKPOINT = re.compile(r"checkpoint-(\d{1,18})")
_CHUNK = 1 << 20


class Damaged(OSError):
    """A file of the store is not what its manifest has."""


@dataclass(frozen=True)
class StoredFile:
    """A file of the store, as the manifest has it; `of`: the name of the file that it is a piece of, if it is one."""

    size: int
    sha256: str
    of: str | None = None


Files = Mapping[str, StoredFile]  # by name; the pieces of a file in their order


@dataclass(frozen=True)
class Part:
    """What becomes one file of the store: `size` bytes of a local file from `start`."""

    file: str
    start: int
    size: int
    is_piece: bool


@dataclass(frozen=True)
class Bundle:
    """A local folder, or some files of one, under its name in the store; `note` keeps what was sent already."""

    name: str
    folder: Path
    files: tuple[str, ...]
    note: Path

    @property
    def size(self) -> int:
        """The size of all files in bytes."""
        return sum(part.size for part in self.parts().values())

    def parts(self) -> dict[str, Part]:
        """The files of the store that it becomes, by name."""
        found = {}
        for file in self.files:
            size = (self.folder / file).stat().st_size
            if size <= PIECE:
                found[file] = Part(file, 0, size, is_piece=False)
                continue
            for number, start in enumerate(range(0, size, PIECE)):
                found[f"{file}.piece-{number:04}"] = Part(file, start, min(PIECE, size - start), is_piece=True)
        return found


def step_in(name: str) -> int:
    """The step in a checkpoint's name; -1 for another name."""
    match = _CHECKPOINT.fullmatch(name)
    return int(match[1]) if match else -1


def manifest_of(store: Store, name: str) -> Files | None:
    """The files of a complete folder; None if it is not complete."""
    try:
        listed = store.read_json(f"{name}/{MANIFEST}")["files"]
        files = {str(key): _stored_file(value) for key, value in listed.items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    names = [*files, *(each.of for each in files.values() if each.of)]
    return files if files and all(map(_is_inside, names)) else None


def _stored_file(value: Mapping[str, Any]) -> StoredFile:
    of = value.get("of")
    return StoredFile(int(value["size"]), str(value["sha256"]), str(of) if of else None)


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name and path.name != MANIFEST


def complete_checkpoints(store: Store) -> list[str]:
    """The names of the complete checkpoints, the newest last."""
    found = sorted((name for name in store.folders() if step_in(name) >= 0), key=step_in)
    return [name for name in found if manifest_of(store, name) is not None]


def send(store: Store, bundle: Bundle, on_bytes: OnBytes = uncounted) -> None:
    """Makes the folder in the store equal to the bundle; files that an earlier try has sent stay."""
    target, parts = store.below(bundle.name), bundle.parts()
    if (before := manifest_of(store, bundle.name)) is not None:
        if _is_equal(before, bundle, parts):
            return
        store.delete(f"{bundle.name}/{MANIFEST}")
    bundle.note.parent.mkdir(exist_ok=True)
    sent, there = read_json_object(bundle.note), target.sizes()
    for name in there.keys() - parts.keys():
        target.delete(name)
    for name, part in parts.items():
        if name in sent and there.get(name) == part.size:
            on_bytes(part.size)
            continue
        sent[name] = target.put_file(name, bundle.folder / part.file, on_bytes, start=part.start, count=part.size)
        bundle.note.write_text(json.dumps(sent), encoding="utf-8")
    _require_sizes(target, bundle, parts)
    files = {name: _listed(part, sent[name]) for name, part in parts.items()}
    target.put(MANIFEST, json.dumps({"files": files}, indent=1).encode())


def _listed(part: Part, digest: str) -> dict[str, Any]:
    return {"size": part.size, "sha256": digest, **({"of": part.file} if part.is_piece else {})}


def _require_sizes(target: Store, bundle: Bundle, parts: Mapping[str, Part]) -> None:
    there = target.sizes()
    if wrong := [name for name, part in parts.items() if there.get(name) != part.size]:
        bundle.note.unlink(missing_ok=True)
        found, wanted = there.get(wrong[0]), parts[wrong[0]].size
        raise Damaged(f"{bundle.name}/{wrong[0]} has {found} of {wanted} bytes in the store")


def _is_equal(there: Files, bundle: Bundle, parts: Mapping[str, Part]) -> bool:
    if {name: each.size for name, each in there.items()} != {name: part.size for name, part in parts.items()}:
        return False
    return all(part_hash(bundle.folder, part) == there[name].sha256 for name, part in parts.items())


def part_hash(folder: Path, part: Part) -> str:
    """The sha256 of a part of a local file."""
    digest, left = hashlib.sha256(), part.size
    with (folder / part.file).open("rb") as file:
        file.seek(part.start)
        while left > 0 and (chunk := file.read(min(left, _CHUNK))):
            left -= len(chunk)
            digest.update(chunk)
    return digest.hexdigest()


def remove(store: Store, name: str) -> None:
    """Removes a folder, its manifest first."""
    store.delete(f"{name}/{MANIFEST}")
    store.delete_folder(name)


def remove_older(store: Store, kept: Collection[str]) -> list[str]:
    """Removes the checkpoints before the newest of `kept`, and returns their names; that one must be complete."""
    newest = max(map(step_in, kept))
    old = [name for name in store.folders() if 0 <= step_in(name) < newest and name not in kept]
    for name in old:
        remove(store, name)
    return old


def bring(store: Store, name: str, folder: Path, on_bytes: Callable[[int], Any] = uncounted) -> None:
    """Copies a complete folder into an empty local one; raises Damaged if a file is not what the manifest has."""
    for each, listed in (manifest_of(store, name) or {}).items():
        path = folder / (listed.of or each)
        path.parent.mkdir(parents=True, exist_ok=True)
        before = path.stat().st_size if listed.of and path.exists() else 0
        try:
            digest = store.get_file(f"{name}/{each}", path, on_bytes, appends=bool(listed.of))
        except FileNotFoundError:
            raise Damaged(f"{name}/{each} is missing in the store") from None
        if path.stat().st_size - before != listed.size or digest != listed.sha256:
            raise Damaged(f"{name}/{each} is not what its manifest has")
