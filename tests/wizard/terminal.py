"""A real pseudo-terminal of 80 × 24 with a readable screen."""

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pexpect
import pyte

UP, DOWN, ENTER, ESC, CTRL_C, CTRL_U, TAB = "\x1b[A", "\x1b[B", "\r", "\x1b", "\x03", "\x15", "\t"


class Terminal:
    """A program on a terminal. `screen` holds its output as a person sees it, and the lines scrolled off."""

    def __init__(self, argv: Sequence[str], cwd: Path, environment: Mapping[str, str]):
        self.screen = pyte.HistoryScreen(80, 24, history=2000)
        self._stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self.child = pexpect.spawn(
            argv[0], list(argv[1:]), cwd=str(cwd), env=dict(environment), dimensions=(24, 80), timeout=30
        )
        self.child.delaybeforesend = None

    def send(self, *keys: str) -> None:
        for key in keys:
            self.child.send(key)
            if key == ESC:
                time.sleep(0.3)

    def read(self, seconds: float = 0.02) -> None:
        """Feed the output so far to the screen, and answer requests for the cursor position as a terminal does."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                data = self.child.read_nonblocking(65536, timeout=0.005)
            except pexpect.TIMEOUT:
                continue
            except pexpect.EOF:
                return
            self.raw += data
            if b"\x1b[6n" in data:
                self.child.send(f"\x1b[{self.screen.cursor.y + 1};{self.screen.cursor.x + 1}R")
            self._stream.feed(data)

    def wait(self, text: str, seconds: float = 40) -> None:
        """Wait until `text` is on the screen (not only in its history), across wrapped lines."""
        end = time.monotonic() + seconds
        while not self._shows(text):
            alive = self.child.isalive()
            self.read(0.02 if alive else 0.2)
            if (not alive or time.monotonic() > end) and not self._shows(text):
                raise AssertionError(
                    f"`{text}` {'did not appear in time' if alive else 'did not appear before the end'}:\n{self.all()}"
                )

    def _shows(self, text: str) -> bool:
        return text in " ".join(self.shown().split()) or text in self.shown()

    def shown(self) -> str:
        return "\n".join(line.rstrip() for line in self.screen.display)

    def all(self) -> str:
        above = ["".join(line[x].data for x in range(self.screen.columns)) for line in self.screen.history.top]
        return "\n".join(line.rstrip() for line in [*above, *self.screen.display])

    def end(self, seconds: float = 30) -> int:
        """Wait for the end; returns the exit status."""
        limit = time.monotonic() + seconds
        while self.child.isalive():
            self.read()
            assert time.monotonic() < limit, f"still running:\n{self.all()}"
        self.read(0.2)
        self.child.close()
        return self.child.exitstatus if self.child.exitstatus is not None else 128 + (self.child.signalstatus or 0)


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "TERM": "xterm-256color", "LANG": "C.UTF-8", "COLUMNS": "80", "LINES": "24", **more}
