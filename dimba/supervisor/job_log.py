"""What a job says: to its log on disk and to its stdout, without the values that must not be seen."""

import contextlib
import os
import sys
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from dimba.common.contract import SHORTEST_SECRET

_CHUNK = 65536
_MASK = b"***"
_LAST_LINES = 200


class JobLog:
    """Written by the job itself, so that nothing on the host has to live for it; `tail` is its last lines."""

    def __init__(self, path: Path | None, secrets: Iterable[str] = (), *, aloud: bool = True) -> None:
        self._secrets = [each.encode() for each in secrets if len(each) >= SHORTEST_SECRET]
        self._held = max(map(len, self._secrets), default=1) - 1
        self._out = sys.stdout.buffer if aloud else None
        self._file = None if path is None or _is_stdout(path) else path.open("ab", buffering=0)
        self._tail: deque[bytes] = deque(maxlen=_LAST_LINES)
        self._line = b""

    @property
    def tail(self) -> str:
        """The last lines, one text."""
        return b"\n".join([*self._tail, self._line]).decode(errors="replace")

    def say(self, text: str) -> None:
        """A line of our own."""
        self._write(text.encode() + b"\n")

    def aloud(self, text: str) -> None:
        """A line and the last ones of the log, on stdout, where only a file has them."""
        _say(f"{text}\n{self.tail}".rstrip().encode() + b"\n")

    def pump(self, stream: BinaryIO) -> None:
        """Hands on what comes until the stream ends; a value that comes in two parts is masked too."""
        kept = b""
        while chunk := stream.read1(_CHUNK):  # type: ignore[attr-defined]  # a buffered reader's
            text = kept + chunk
            whole = max(text.rfind(b"\n"), text.rfind(b"\r")) + 1
            cut = whole or (max(len(text) - self._held, 0) if len(text) > _CHUNK else 0)
            self._write(self._masked(text[:cut]))
            kept = text[cut:]
        self._write(self._masked(kept))

    def _masked(self, text: bytes) -> bytes:
        for secret in self._secrets:
            text = text.replace(secret, _MASK)
        return text

    def _write(self, text: bytes) -> None:
        *lines, self._line = (self._line + text).split(b"\n")
        self._line = self._line[-_CHUNK:]
        self._tail.extend(lines)
        # A full disk, or nobody who reads along, must not end the training.
        if self._out:
            _say(text)
        if self._file:
            with contextlib.suppress(OSError):
                self._file.write(text)


def _say(text: bytes) -> None:
    with contextlib.suppress(OSError):
        sys.stdout.buffer.write(text)
        sys.stdout.buffer.flush()


def _is_stdout(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return os.path.samestat(path.stat(), os.fstat(sys.stdout.fileno()))
    return False
