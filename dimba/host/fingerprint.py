"""What files hold, as one hash: of a data file, of a base checkpoint. Read once, remembered while nothing changes."""

import hashlib
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dimba.contract import cache_home
from dimba.host.stamp import stamp

_CHUNK = 1 << 22
_AT_ONCE = 4  # files: more only wait for the disk
Progress = Callable[[int, int], None]  # (bytes read, bytes in all)


def fingerprint(path: Path, progress: Progress) -> str | None:
    """SHA-256 of a file, or of the names and hashes of the files right in a folder; None where it cannot be read."""
    before = stamp(path)
    memory = _memory(path, before)
    if (known := _recall(memory)) is not None:
        return known
    try:
        files = sorted(each for each in path.iterdir() if each.is_file()) if path.is_dir() else [path]
        hashes = _hashes(files, progress)
    except OSError:
        return None
    if not path.is_dir():
        made = hashes[0]
    else:
        made = hashlib.sha256(
            "".join(f"{h}  {f.name}\n" for h, f in zip(hashes, files, strict=True)).encode()
        ).hexdigest()
    if stamp(path) == before:
        _remember(memory, made)
    return made


def _hashes(files: list[Path], progress: Progress) -> list[str]:
    total, done = sum(file.stat().st_size for file in files), 0

    def read(count: int) -> None:
        nonlocal done
        done += count
        progress(done, total)

    with ThreadPoolExecutor(_AT_ONCE) as pool:  # hashlib lets other threads run meanwhile
        return list(pool.map(lambda file: _hash(file, read), files))


def _hash(file: Path, read: Callable[[int], None]) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
            read(len(chunk))
    return digest.hexdigest()


def _memory(path: Path, state: object) -> Path:
    name = hashlib.sha256(repr((str(path), state)).encode()).hexdigest()[:32]
    return cache_home() / "hashes" / f"{name}.json"


def _recall(memory: Path) -> str | None:
    try:
        return str(json.loads(memory.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None


def _remember(memory: Path, made: str) -> None:
    try:
        memory.parent.mkdir(parents=True, exist_ok=True)
        memory.write_text(json.dumps(made), encoding="utf-8")
    except OSError:
        return  # read again next time
