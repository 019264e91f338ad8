"""GPU leases: which run gets which GPU, and which waits."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dimba.common.processes import is_alive, own_process
from dimba.records.leases import GpuRequest, Lease, Leases, assign

TWO = ("GPU-a", "GPU-b")


def want(count: int, *candidates: str) -> GpuRequest:
    return GpuRequest(candidates=candidates or TWO, count=count)


@pytest.mark.parametrize(
    ("wanted", "free", "before", "given"),
    [
        (want(1), TWO, [], ("GPU-a",)),
        (want(1), ("GPU-b",), [], ("GPU-b",)),
        (want(2), ("GPU-b",), [], None),
        (want(1, "GPU-a"), ("GPU-b",), [], None),
        # An earlier request gets its GPUs first …
        (want(1), TWO, [want(1)], ("GPU-b",)),
        (want(1), TWO, [want(1), want(1)], None),
        # … and a smaller, later one does not delay it.
        (want(1), ("GPU-b",), [want(2)], None),
        # A GPU that it did not ask for goes to the later one.
        (want(1), ("GPU-b",), [want(1, "GPU-a")], ("GPU-b",)),
        (want(0), (), [want(2)], ()),
    ],
)
def test_earlier_requests_are_served_first(
    wanted: GpuRequest, free: tuple[str, ...], before: list[GpuRequest], given: object
):
    assert assign(wanted, free, before) == given


GPUS = tuple("abcd")
WANTS = st.lists(
    st.sets(st.sampled_from(GPUS), min_size=1).flatmap(
        lambda some: st.integers(1, len(some)).map(
            lambda count: GpuRequest(candidates=tuple(sorted(some)), count=count)
        )
    ),
    max_size=6,
)


@given(WANTS, st.sets(st.sampled_from(GPUS)))
def test_no_request_is_delayed_by_a_later_one_and_no_gpu_is_leased_twice(queue: list[GpuRequest], free_gpus: set[str]):
    free = sorted(free_gpus)
    given = [assign(wanted, free, queue[:place]) for place, wanted in enumerate(queue)]
    gpus = [gpu for each in given for gpu in each or ()]
    assert len(gpus) == len(set(gpus)) and set(gpus) <= free_gpus
    for place, wanted in enumerate(queue):
        if given[place] is None:  # later requests got no GPU that this one could use
            later = {gpu for each in given[place + 1 :] for gpu in each or ()}
            assert not later & set(wanted.candidates)


def leases(folder: Path, *, alive: bool | None = True) -> Leases:
    return Leases(folder, lambda _lease: alive)


def ask(table: Leases, run: str, count: int = 1, **others: str):
    return table.ask(run, want(count), since=float(len(run)), runner="process", others=others)


def test_a_gpu_is_held_until_its_job_ends(tmp_path: Path):
    table = leases(tmp_path)
    assert ask(table, "r1").gpus == ("GPU-a",)
    table.hand_over("r1", "job")
    assert ask(table, "r22").gpus == ("GPU-b",)
    waits = ask(table, "r333")
    assert waits.gpus is None and waits.holders == {"GPU-a": "run r1", "GPU-b": "run r22"}
    table.release("r333")
    assert ask(leases(tmp_path, alive=False), "r4444").gpus == ("GPU-a",), "r1's job has ended; r22 is being launched"


def test_a_gpu_stays_held_if_it_is_unknown_whether_its_job_runs(tmp_path: Path):
    ask(leases(tmp_path), "r1", 2)
    leases(tmp_path).hand_over("r1", "container")
    assert ask(leases(tmp_path, alive=None), "r2").gpus is None


def test_a_dead_launcher_holds_no_gpu(tmp_path: Path):
    dead = Lease(run="r1", gpus=TWO, launcher="1:1", runner="process")
    (tmp_path / "leases.json").write_text(json.dumps({"leases": [vars(dead)], "waiting": []}), encoding="utf-8")
    assert ask(leases(tmp_path, alive=False), "r2", 2).gpus == TWO


def test_a_gpu_in_use_without_a_lease_is_not_free(tmp_path: Path):
    answer = ask(leases(tmp_path), "r1", 2, **{"GPU-a": "process 7 (python)"})
    assert answer.gpus is None and answer.holders == {"GPU-a": "process 7 (python)"}


def test_a_sharing_run_leases_a_held_gpu_and_later_runs_do_not_get_it(tmp_path: Path):
    table = leases(tmp_path)
    ask(table, "r1", 2)
    table.take("r2", ("GPU-a",), runner="process")
    table.release("r1")
    assert ask(table, "r3").gpus == ("GPU-b",) and ask(table, "r4").gpus is None


def test_a_dead_process_in_the_queue_delays_no_run(tmp_path: Path):
    waiter = {"run": "r0", "wanted": {"candidates": TWO, "count": 2}, "since": 0.0, "launcher": "1:1"}
    (tmp_path / "leases.json").write_text(json.dumps({"leases": [], "waiting": [waiter]}), encoding="utf-8")
    assert ask(leases(tmp_path), "r1").gpus == ("GPU-a",)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"leases": [1], "waiting": []}', '{"leases": [{"run": "x"}]}'])
def test_a_broken_table_counts_as_empty(tmp_path: Path, text: str):
    (tmp_path / "leases.json").write_text(text, encoding="utf-8")
    assert ask(leases(tmp_path), "r1").gpus == ("GPU-a",)


ASKS = """
import sys, time
from pathlib import Path
from dimba.records.leases import Leases, GpuRequest
table = Leases(Path(sys.argv[1]), lambda lease: False)
want = GpuRequest(candidates=("GPU-a", "GPU-b"), count=1)
answer = table.ask(sys.argv[2], want, since=time.time(), runner="process", others={})
print(*(answer.gpus or ()), flush=True)
sys.stdin.read()
"""


def test_fifty_processes_that_ask_at_once_never_get_the_same_gpu(tmp_path: Path):
    asking = [
        subprocess.Popen(
            [sys.executable, "-c", ASKS, str(tmp_path), f"r{n}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for n in range(50)
    ]
    given = [each.stdout.readline().strip() for each in asking if each.stdout]
    assert sorted(gpu for gpu in given if gpu) == ["GPU-a", "GPU-b"]
    for each in asking:
        each.communicate("", timeout=30)


def test_a_later_process_with_the_same_pid_has_another_name():
    pid, _, started = own_process().partition(":")
    assert is_alive(own_process()) and is_alive(f"{own_process()}:and more")
    assert not is_alive(f"{pid}:{int(started) + 1}") and not is_alive(None) and not is_alive("") and not is_alive("x:1")
    assert os.getpid() == int(pid)
