"""A lease lasts as long as its job: by the labels of containers, by the process, and while an engine is away."""

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dimba.common.errors import EngineFailed
from dimba.jobs.gpu_leases import Holder, Machine
from dimba.records import RunRecord, create_run
from dimba.records.leases import Lease
from tests.memory_runner import MemoryRunner, Stop

LEASE = Lease(run="run-1", gpus=("GPU-0",), launcher="", runner="memory", job="run-1-1")


@dataclass
class Labelled(MemoryRunner):
    """Its jobs carry labels; None is an engine that is away."""

    labels: dict[str, str] | None = field(default_factory=dict)

    def held_gpus(self) -> dict[str, str] | None:
        if self.labels is None:
            raise EngineFailed("away", "")
        return self.labels

    def is_running(self, job: str) -> bool:
        raise AssertionError("the labels tell")


@pytest.mark.parametrize(("labels", "lives"), [({"GPU-0": "run-1"}, True), ({"GPU-0": "run-2"}, False), (None, None)])
def test_a_labelled_job_is_found_by_its_label(labels: dict[str, str] | None, lives: bool | None):
    assert Machine((Labelled(labels=labels),)).jobs()["memory"].has(LEASE) is lives


def test_a_job_without_labels_is_asked_for_by_its_name_or_by_its_run():
    runner = MemoryRunner()
    jobs = Machine((runner,)).jobs()["memory"]
    unnamed = Lease(run="run-1", gpus=("GPU-0",), launcher="", runner="memory")
    assert not jobs.has(LEASE) and not jobs.has(unnamed)
    runner.jobs["run-1-1"] = ([], Stop(), 0)
    assert jobs.has(LEASE) and jobs.has(unnamed)


def test_a_run_of_a_sweep_queues_since_its_turn_and_any_other_since_its_creation(tmp_path: Path):
    created = "2026-01-01T00:00:00+00:00"
    for group in (None, "sweep"):
        folder = create_run(tmp_path, f"run-{group}", os.getuid(), os.getgid())
        folder.write_record(RunRecord(id=folder.id, name="run", created=created, group=group))
        since = Holder.of_run(folder).since
        assert (since < time.time() - 3600) is (group is None)
