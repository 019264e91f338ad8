"""Tokenised rows on disk: written once, read by every process through the page cache.

A folder of flat arrays: `ids` (int32) and `trained` (bool) of all rows end to end, `ends` (int64, the end of each
row), `trained_counts` (int32), `numbers` (int64, the row's line or number in its file), and note.json.
"""

import json
import os
import shutil
import time
from array import array
from bisect import bisect_right
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from dimba.trainers.data.encoding import Example

_NOTE = "note.json"
_PER_ROW = {"ends": np.int64, "trained_counts": np.int32, "numbers": np.int64}


@dataclass(frozen=True)
class TokenStore:
    """Rows by their index; `note` holds the counts made while they were tokenised (tokenization.Counts)."""

    ids: np.ndarray  # int32 [tokens]
    trained: np.ndarray  # bool [tokens]
    ends: np.ndarray  # int64 [rows]
    trained_counts: np.ndarray  # int32 [rows]
    numbers: np.ndarray  # int64 [rows]
    note: dict[str, Any]

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens per row, int64 [rows]."""
        return np.diff(self.ends, prepend=0)

    def row(self, index: int) -> Example:
        """The tokens of one row."""
        start = int(self.ends[index - 1]) if index else 0
        end = int(self.ends[index])
        return Example(np.asarray(self.ids[start:end]), np.asarray(self.trained[start:end]))

    def where(self, index: int) -> str:
        """The place of a row in its file."""
        starts = [start for start, _ in self.note["places"]]
        return f"{self.note['places'][bisect_right(starts, index) - 1][1]}{self.numbers[index]}"

    @classmethod
    def open(cls, folder: Path) -> "TokenStore":
        """The store that a writer left in `folder`; tokens stay on disk. Raises ValueError for a damaged one."""
        rows = {name: np.load(folder / f"{name}.npy", allow_pickle=False) for name in _PER_ROW}
        note = json.loads((folder / _NOTE).read_text(encoding="utf-8"))
        ids, trained = (_mapped(folder / "ids.bin", np.int32), _mapped(folder / "trained.bin", np.bool_))
        total = int(rows["ends"][-1]) if len(rows["ends"]) else 0
        if not len(ids) == len(trained) == total or len({len(each) for each in rows.values()}) > 1:
            raise ValueError(f"{folder} is damaged")
        record_use(folder / _NOTE)
        return cls(ids, trained, note=note, **rows)


def record_use(path: Path) -> None:
    """Sets a cached file's access time, by which `dimba prune` chooses; many disks do not record reads themselves."""
    with suppress(OSError):
        os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))


def _mapped(path: Path, kind: type[np.generic]) -> np.ndarray:
    # An empty file cannot be mapped.
    return np.memmap(path, dtype=kind, mode="r") if path.stat().st_size else np.empty(0, kind)


class TokenWriter:
    """Writes rows beside `folder`; `finish` renames them into place, so `folder` is complete or absent.

    The caller holds the folder's lock.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._part = folder.with_name(f"{folder.name}.{os.getpid()}.part")
        self._rows = {name: array("q") for name in _PER_ROW}  # 8 bytes per row and name: there may be millions
        self._end = 0

    def __enter__(self) -> "TokenWriter":
        for leftover in self._folder.parent.glob(f"{self._folder.name}.*.part"):
            shutil.rmtree(leftover)  # from a killed process: the lock admits one writer at a time
        self._part.mkdir(parents=True)
        self._ids, self._trained = ((self._part / f"{name}.bin").open("wb") for name in ("ids", "trained"))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self._ids.close()
            self._trained.close()
        finally:
            shutil.rmtree(self._part, ignore_errors=True)

    def __len__(self) -> int:
        return len(self._rows["ends"])

    def add(self, example: Example, number: int) -> None:
        """Appends the row with this line or number."""
        self._ids.write(example.input_ids.astype(np.int32).tobytes())
        self._trained.write(example.trained.astype(np.bool_).tobytes())
        self._end += len(example.input_ids)
        self._rows["ends"].append(self._end)
        self._rows["trained_counts"].append(int(example.trained.sum()))
        self._rows["numbers"].append(number)

    def finish(self, note: dict[str, Any]) -> None:
        """Flushes everything to the disk and renames it to `folder`."""
        self._ids.close()
        self._trained.close()
        for name, kind in _PER_ROW.items():
            np.save(self._part / f"{name}.npy", np.array(self._rows[name], dtype=kind), allow_pickle=False)
        (self._part / _NOTE).write_text(json.dumps(note, ensure_ascii=False), encoding="utf-8")
        for path in self._part.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        shutil.rmtree(self._folder, ignore_errors=True)
        self._part.rename(self._folder)
