"""`dimba serve` as a user starts it: a process, whose address is known once the model is loaded."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import REPOSITORY

PATIENCE = 300.0  # seconds: an image may have to be built


@dataclass
class Serving:
    """A server's process; stderr goes to `errors`."""

    process: subprocess.Popen[str]
    errors: Path
    url: str = ""
    model: str = ""

    @property
    def log(self) -> str:
        return self.errors.read_text(encoding="utf-8")

    @property
    def root(self) -> str:
        return self.url.removesuffix("/v1")

    def get(self, path: str) -> tuple[int, Any]:
        return fetched(self.root + path)

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)


def fetched(url: str) -> tuple[int, Any]:
    """The status and body of a GET; status 0 if nothing listens."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)
    except OSError:
        return 0, None


@contextmanager
def served(folder: Path, *words: str, waits: bool = True, **environment: str) -> Iterator[Serving]:
    """A server that is killed after the block if it still runs; without `waits` it may not be ready yet."""
    errors = folder / "stderr.txt"
    with errors.open("w", encoding="utf-8") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "dimba", "serve", *words, "--json"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    serving = Serving(process, errors)
    try:
        if waits:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, serving.log
            serving.url, serving.model = (json.loads(line)[key] for key in ("url", "model"))
        yield serving
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(30)
        assert "Traceback" not in serving.log, serving.log


def until(is_so: Callable[[], bool], seconds: float = PATIENCE) -> None:
    ends = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < ends
        time.sleep(0.05)
