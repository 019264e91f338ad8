"""Fixtures for tests on a real cluster."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import QUESTIONS, write_rows

SETTINGS = """\
trainer_args: {save-steps: 2}
slurm: {time: 10}
runner: slurm
"""


def cluster(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout.strip()


def until(condition: Callable[[], object], seconds: float = 180) -> None:  # other jobs may use the cluster
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"the condition did not hold within {seconds} s"
        time.sleep(0.3)


@pytest.fixture(scope="session")
def nodes() -> list[str]:
    """The names of the nodes; without a cluster, tests are skipped, or fail if DIMBA_REQUIRE_SLURM is set."""
    try:
        found = sorted(set(cluster("sinfo", "--noheader", "--Node", "--format=%N").splitlines()))
        problem = "" if len(found) > 1 else "fewer than two nodes"
    except (OSError, subprocess.SubprocessError) as error:
        found, problem = [], str(error)
    if problem and os.environ.get("DIMBA_REQUIRE_SLURM"):
        pytest.fail(f"a cluster is required here: {problem}")
    if problem:
        pytest.skip(f"NO SLURM TESTED: {problem}")
    return found


@pytest.fixture
def two_nodes(tiny_job: Path, nodes: list[str]) -> Iterator[Path]:
    """The tiny job for two nodes with two processes each, on pretend GPUs; its jobs are cancelled after the test."""
    write_rows(tiny_job / "data.jsonl", QUESTIONS * 4)
    path = tiny_job / "job.yaml"
    text = path.read_text(encoding="utf-8").replace("gpus: none", "gpus: 2, nodes: 2")
    path.write_text(text + SETTINGS, encoding="utf-8")
    yield tiny_job
    withdraw(tiny_job)


def withdraw(folder: Path) -> None:
    """Cancel all jobs of a folder's runs."""
    for run in (folder / "runs").glob("*"):
        lines = cluster("squeue", "--noheader", "--format=%i %k").splitlines()
        for number in (line.split()[0] for line in lines if line.endswith(f"dimba:{run.name}")):
            cluster("scancel", number)
            until(lambda number=number: number not in cluster("squeue", "--noheader", "--format=%i").split())
