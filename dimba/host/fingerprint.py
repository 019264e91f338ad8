"""Content hashes of data files and base checkpoints, computed once and remembered until a file changes."""

import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dimba.common.contract import EVAL_FILE
from dimba.host.findings import recall, remember
from dimba.host.stamp import stamp

_CHUNK = 1 << 22
_KIND = "hashes"
_AT_ONCE = 4  # files read in parallel: more would only wait for the disk
Progress = Callable[[int, int], None]  # (bytes read, bytes in all)


def fingerprint(path: Path, progress: Progress) -> str | None:
    """SHA-256 of a file, or of the names and hashes of a folder's own files; None if one cannot be read.

    What `dimba eval` writes into a model's folder does not make another model of it.
    """
    before = stamp(path)
    name = _name(path, before)
    if isinstance(known := recall(_KIND, name), str):
        return known
    try:
        files = sorted(each for each in path.iterdir() if _counts(each)) if path.is_dir() else [path]
        hashes = _hashes(files, progress)
    except OSError:
        return None
    digest = _folder_hash(files, hashes) if path.is_dir() else hashes[0]
    if stamp(path) == before:
        remember(_KIND, name, digest)
    return digest


def fingerprint_of_files(files: Sequence[Path], progress: Progress) -> str | None:
    """SHA-256 of the names and hashes of several files in their order; None if one cannot be read."""
    before = [stamp(each) for each in files]
    name = _name(Path(os.path.commonpath(files)), list(zip(map(str, files), before, strict=True)))
    if isinstance(known := recall(_KIND, name), str):
        return known
    try:
        digest = _folder_hash(list(files), _hashes(list(files), progress))
    except OSError:
        return None
    if [stamp(each) for each in files] == before:
        remember(_KIND, name, digest)
    return digest


def _counts(file: Path) -> bool:
    return file.is_file() and file.name != EVAL_FILE


def _folder_hash(files: list[Path], hashes: list[str]) -> str:
    lines = (f"{digest}  {file.name}\n" for digest, file in zip(hashes, files, strict=True))
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _hashes(files: list[Path], progress: Progress) -> list[str]:
    total, done = sum(file.stat().st_size for file in files), 0

    def read(count: int) -> None:
        nonlocal done
        done += count
        progress(done, total)

    with ThreadPoolExecutor(_AT_ONCE) as pool:  # hashlib releases the interpreter lock
        return list(pool.map(lambda file: file_hash(file, read), files))


def file_hash(file: Path, read: Callable[[int], None] = lambda _bytes: None) -> str:
    """SHA-256 of a file, read in chunks; `read` receives the size of each chunk in bytes."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
            read(len(chunk))
    return digest.hexdigest()


def _name(path: Path, state: object) -> str:
    return hashlib.sha256(repr((str(path), state)).encode()).hexdigest()[:32]
