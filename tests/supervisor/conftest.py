"""The entry point with a trainer of one file below it."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dimba.common.processes import start_time
from tests.conftest import REPOSITORY

# Like `accelerate launch`: exits with 1 for every failure, and forwards no signal.
LAUNCHER = """
import subprocess, sys
sys.exit(1 if subprocess.run([sys.executable, "-m", "dimba.supervisor.rank", *sys.argv[1:]]).returncode else 0)
"""


@pytest.fixture
def entry(tmp_path: Path):
    (tmp_path / "launcher.py").write_text(LAUNCHER, encoding="utf-8")

    def start(trainer: str, stdin: str = "", **environment: str) -> subprocess.Popen[str]:
        (tmp_path / "trainer.py").write_text(trainer, encoding="utf-8")
        command = [sys.executable, "-m", "dimba.supervisor.entry", sys.executable, str(tmp_path / "launcher.py")]
        process = subprocess.Popen(
            [*command, str(tmp_path / "trainer.py"), "--flag"],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "DIMBA_ATTEMPT_DIR": str(tmp_path), **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        process.stdin.write(stdin)
        process.stdin.flush()
        return process

    return start


def wait_for(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = process.communicate(timeout=30)
    return process.returncode, output


def ends(pid: int) -> bool:
    """Whether a process ends within 5 seconds."""
    for _ in range(50):
        if not start_time(pid):
            return True
        time.sleep(0.1)
    return False
