"""The supervisor of a sweep in a world of its own: cards, jobs of some length, and a clock that is not waited for."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from dimba.jobs.sweep import supervise
from dimba.jobs.sweep.control import resume_sweep
from dimba.jobs.sweep.supervise import supervise_sweep
from dimba.records import ACTIVE, RunFolder, RunRecord, create_run
from dimba.records.record import Attempt, now
from dimba.records.sweep import SweepRecord, SweepRun
from tests.jobs.test_lifecycle import Quiet

Ends = Callable[[int], tuple[str, str]]  # number of a run: status and exit reason


@dataclass
class Ended:
    """A process that has ended."""

    def poll(self) -> int:
        return 0


@dataclass
class World:
    """Runs whose supervisors wait for one of `cards`; each job runs for three ticks."""

    folder: RunFolder
    runs: list[RunFolder]
    cards: int = 2
    ends: Ends = lambda _number: ("succeeded", "completed")
    evaluations: Callable[[int, int], float] | None = None  # (number of the run, step): its validation loss
    in_hand: list[str] = field(default_factory=list)
    left: dict[str, int] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    most_in_hand: int = 0
    dies: set[str] = field(default_factory=set)  # runs whose supervisors end at once
    ticks: int = 0

    def spawn(self, folder: RunFolder) -> Ended:
        if folder.id not in self.dies:
            self.in_hand.append(folder.id)
        return Ended()

    def record(self, folder: RunFolder) -> RunRecord:
        return folder.record()

    def tick(self, _seconds: float) -> None:
        self.ticks += 1
        assert self.ticks < 500, "the sweep does not end"
        for folder in self.runs:
            self._advance(folder)
        for folder in self.runs:
            if folder.id in self.in_hand and len(self.left) < self.cards and folder.record().status == "queued":
                self._start(folder)
        active = [each for each in self.runs if each.id in self.in_hand and each.record().status in ACTIVE]
        self.most_in_hand = max(self.most_in_hand, len(active))

    def _start(self, folder: RunFolder) -> None:
        self.left[folder.id] = 3
        self.order.append(folder.id)
        folder.new_attempt()
        attempt = Attempt(number=1, job="1:1:x", started=now())
        attempts = (*folder.record().attempts, attempt)
        folder.write_record(replace(folder.record(), status="running", attempts=attempts))

    def _advance(self, folder: RunFolder) -> None:
        if folder.id not in self.left:
            return
        number = self.runs.index(folder) + 1
        self.left[folder.id] -= 1
        if self.evaluations:
            step = 3 - self.left[folder.id]
            line = {"step": step, "max_steps": 9, "eval_loss": self.evaluations(number, step)}
            with (folder.attempt(1) / "metrics.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        if not self.left[folder.id]:
            del self.left[folder.id]
            folder.write_record(folder.record().closed(*self.ends(number), 0))

    def stop(self, folder: RunFolder, *, now: bool, reason: str) -> RunRecord:
        self.left.pop(folder.id, None)
        closed = folder.record().closed("stopped", reason, None)
        folder.write_record(closed)
        return closed


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., World]:
    """Makes a sweep of `count` queued runs on record, and its world."""
    monkeypatch.setenv("DIMBA_LEASES", str(tmp_path / "leases"))

    def made(count: int = 6, *, at_once: int = 2, ahead: int = 1, stop_worst: bool = False, **how: Any) -> World:
        me = (os.getuid(), os.getgid())
        folder = create_run(tmp_path / "runs", "s", *me)
        runs = [create_run(tmp_path / "runs", f"s-{number}", *me) for number in range(1, count + 1)]
        for each in runs:
            each.write_record(RunRecord(id=each.id, name="s", group="s", created=now(), output_dir=str(each.path)))
        swept = tuple(SweepRun(id=each.id, values=(str(number),)) for number, each in enumerate(runs, 1))
        more = {"at_once": at_once, "ahead": ahead, "stop_worst": stop_worst, "metric": "eval_loss"}
        folder.write_json("sweep.json", SweepRecord(id="s", keys=("lora.r",), runs=swept, **more).as_json())
        world = World(folder, runs, **how)
        monkeypatch.setattr(supervise, "spawn_supervisor", world.spawn)
        monkeypatch.setattr(supervise, "reconciled", world.record)
        monkeypatch.setattr(supervise, "stop_run", world.stop)
        monkeypatch.setattr(supervise, "in_hand", lambda each, _record: each.id in world.in_hand)
        monkeypatch.setattr(time, "sleep", world.tick)
        return world

    return made


def run(world: World) -> Quiet:
    reporter = Quiet()
    supervise_sweep(world.folder, reporter)
    return reporter


def statuses(world: World) -> list[str]:
    return [each.record().status for each in world.runs]


def test_all_runs_run_in_their_order_and_at_most_one_waits_beside_those_that_run(make: Callable[..., World]):
    world = make(7)
    said = run(world).said
    assert statuses(world) == ["succeeded"] * 7
    assert world.order == [f"s-{number}" for number in range(1, 8)] and world.most_in_hand == 3
    assert said[0] == "run 1 (r=1): running" and said[-1] == "run 7 (r=7): succeeded, completed"


def test_without_gpus_to_wait_for_no_run_starts_before_the_last_has_ended(make: Callable[..., World]):
    world = make(3, at_once=1, ahead=0)
    run(world)
    assert world.most_in_hand == 1 and statuses(world) == ["succeeded"] * 3


def test_a_second_supervisor_does_nothing(make: Callable[..., World]):
    from dimba.jobs.supervisor import lock_of
    from dimba.records.locks import try_lock

    world = make(2)
    with try_lock(lock_of(world.folder)):
        run(world)
    assert statuses(world) == ["queued"] * 2


def test_a_supervisor_that_comes_later_continues_where_the_killed_one_ended(make: Callable[..., World]):
    world = make(5)
    world.runs[0].write_record(world.runs[0].record().closed("succeeded", "completed", 0))
    said = run(world).said
    assert statuses(world) == ["succeeded"] * 5 and not [line for line in said if "run 1 " in line]


def test_one_run_that_fails_does_not_stop_the_others(make: Callable[..., World]):
    world = make(6, ends=lambda number: ("failed", "trainer_error") if number % 2 else ("succeeded", "completed"))
    run(world)
    assert statuses(world) == ["failed", "succeeded"] * 3


def test_first_runs_that_fail_alike_end_the_sweep(make: Callable[..., World]):
    world = make(9, ends=lambda _number: ("failed", "trainer_error"))
    said = run(world).said
    ended = statuses(world)
    assert ended.count("failed") <= 5 and ended[-4:] == ["stopped"] * 4
    assert world.runs[-1].record().exit_reason == "sweep_failed"
    assert [line for line in said if "failed alike (trainer_error, status 0)" in line and "dimba resume s" in line]


@pytest.mark.parametrize("reason", ["nan_loss", "gpu_out_of_memory"])
def test_failures_that_depend_on_the_values_do_not_end_the_sweep(make: Callable[..., World], reason: str):
    world = make(6, ends=lambda number: ("failed", reason) if number < 5 else ("succeeded", "completed"))
    run(world)
    assert statuses(world) == ["failed"] * 4 + ["succeeded"] * 2


def test_a_run_whose_supervisor_dies_again_and_again_is_closed(make: Callable[..., World]):
    world = make(3, dies={"s-2"})
    run(world)
    assert statuses(world) == ["succeeded", "failed", "succeeded"]
    assert world.runs[1].record().exit_reason == "start_failed"


def test_a_stopped_sweep_starts_no_further_run(make: Callable[..., World]):
    world = make(4)
    world.folder.request_stop()
    for each in world.runs[1:]:
        each.write_record(each.record().closed("stopped", "stopped_by_user", None))
    world.in_hand.append("s-1")
    run(world)
    assert world.order == ["s-1"]


def test_a_broken_record_does_not_hide_the_other_runs(make: Callable[..., World]):
    world = make(3)
    (world.runs[0].path / "run.json").write_text("{", encoding="utf-8")
    world.runs = world.runs[1:]
    run(world)
    assert statuses(world) == ["succeeded"] * 2


def test_the_worse_half_is_stopped_at_an_evaluation_and_the_best_runs_to_its_end(make: Callable[..., World]):
    world = make(6, stop_worst=True, evaluations=lambda number, step: float(number) / step)
    run(world)
    reasons = [each.record().exit_reason for each in world.runs]
    assert reasons[0] == "completed" and reasons[-1] == "stopped_by_sweep"
    assert set(reasons) == {"completed", "stopped_by_sweep"}


def test_a_run_that_a_user_resumed_is_not_stopped_as_one_of_the_worst_again(make: Callable[..., World]):
    world = make(2, stop_worst=True, evaluations=lambda number, step: float(number) / step)
    stopped = (Attempt(number=1, started=now(), ended=now(), exit_reason="stopped_by_sweep"),)
    world.runs[1].write_record(replace(world.runs[1].record(), attempts=stopped))
    run(world)
    assert statuses(world) == ["succeeded"] * 2


def test_without_stop_worst_every_run_runs_to_its_end(make: Callable[..., World]):
    world = make(6, evaluations=lambda number, step: float(number) / step)
    run(world)
    assert statuses(world) == ["succeeded"] * 6


def test_resuming_a_sweep_sends_what_the_store_lacks_of_runs_that_succeeded(
    make: Callable[..., World], monkeypatch: pytest.MonkeyPatch
):
    world = make(2)
    for each, pending in zip(world.runs, (["model"], []), strict=True):
        store = {"address": "file:///s", "writer": "w", "pending": pending}
        each.write_record(replace(each.record().closed("succeeded", "completed", 0), store=store))
    sent: list[str] = []
    monkeypatch.setattr("dimba.jobs.sweep.control.resume", lambda folder, *_, **__: sent.append(folder.id))
    resume_sweep(world.folder, Quiet())
    assert sent == ["s-1"]
