"""The job's output, written to its log on disk and to stdout, with secrets masked."""

import os
import sys
import threading
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from dimba.common.contract import SHORTEST_SECRET

_CHUNK = 65536  # bytes
_MASK = b"***"
_TAIL_LINES = 200


class JobLog:
    """The log that the job itself writes, so that it needs no process on the host; `tail` is its last lines."""

    def __init__(self, path: Path | None, secrets: Iterable[str] = (), *, to_stdout: bool = True) -> None:
        self._secrets = [each.encode() for each in secrets if len(each) >= SHORTEST_SECRET]
        self._longest_part = max(map(len, self._secrets), default=1) - 1  # bytes of a secret that may be cut in two
        self._to_stdout = to_stdout
        self._file = None if path is None or _is_stdout(path) else path.open("ab", buffering=0)
        self._tail: deque[bytes] = deque(maxlen=_TAIL_LINES)
        self._line = b""
        self._lock = threading.Lock()  # the ranks and a server beside them write at the same time

    @property
    def tail(self) -> str:
        """The last lines as one text."""
        return b"\n".join([*self._tail, self._line]).decode(errors="replace")

    def write_line(self, text: str) -> None:
        """Writes a line of the supervisor's own."""
        self._write(text.encode() + b"\n")

    def print_tail(self, title: str) -> None:
        """Prints the last lines under a title, for a log that is not printed while it grows."""
        _print(f"{title}\n{self.tail}".rstrip().encode() + b"\n")

    def copy_from(self, stream: BinaryIO) -> None:
        """Writes everything that `stream` yields until it ends; masks also a secret that arrives in two chunks."""
        kept = b""
        while chunk := stream.read1(_CHUNK):  # type: ignore[attr-defined]  # a buffered reader's
            text = kept + chunk
            complete = max(text.rfind(b"\n"), text.rfind(b"\r")) + 1
            cut = complete or (max(len(text) - self._longest_part, 0) if len(text) > _CHUNK else 0)
            self._write(self._masked(text[:cut]))
            kept = text[cut:]
        self._write(self._masked(kept))

    def copy_lines_from(self, stream: BinaryIO, prefix: str) -> None:
        """Writes each line of a process beside the ranks behind a prefix, with secrets masked."""
        for line in stream:
            self._write(prefix.encode() + self._masked(line.rstrip(b"\n")) + b"\n")

    def _masked(self, text: bytes) -> bytes:
        for secret in self._secrets:
            text = text.replace(secret, _MASK)
        return text

    def _write(self, text: bytes) -> None:
        with self._lock:
            self._write_alone(text)

    def _write_alone(self, text: bytes) -> None:
        *lines, self._line = (self._line + text).split(b"\n")
        self._line = self._line[-_CHUNK:]
        self._tail.extend(lines)
        if self._to_stdout:
            _print(text)
        if self._file:
            with suppress(OSError):  # a full disk must not end the training
                self._file.write(text)


def _print(text: bytes) -> None:
    with suppress(OSError):  # a closed stdout must not end the training
        sys.stdout.buffer.write(text)
        sys.stdout.buffer.flush()


def _is_stdout(path: Path) -> bool:
    with suppress(OSError):
        return os.path.samestat(path.stat(), os.fstat(sys.stdout.fileno()))
    return False
