"""The measured times of kernels, and their cache."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dimba.trainers.kernels import timings
from dimba.trainers.kernels.timings import quickest, timings_folder

pytestmark = pytest.mark.slow
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(timings.constants, "HF_HOME", str(tmp_path))
    return tmp_path


class Counted:
    """A candidate that takes this long and counts its calls."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.calls = seconds, 0

    def __call__(self) -> None:
        self.calls += 1
        time.sleep(self.seconds)


def fails() -> None:
    raise RuntimeError("no kernel for this head size\nand more")


def runs_out() -> None:
    raise torch.OutOfMemoryError("the card is full")


def ask(key: object = 1, **candidates: Callable[[], object]) -> timings.Timings:
    return quickest("attention", {"shape": key}, candidates, CPU)


def test_the_quickest_candidate_is_measured_once_and_kept():
    slow, quick = Counted(0.004), Counted(0)
    found = ask(slow=slow, quick=quick)
    assert found.quickest == "quick" and not found.is_cached
    before = quick.calls
    again = ask(slow=slow, quick=quick)
    assert (again.quickest, again.is_cached, quick.calls) == ("quick", True, before)
    assert [each.suffix for each in timings_folder().iterdir()] == [".json"]


def test_another_key_and_an_unknown_candidate_are_measured_and_a_part_of_the_known_ones_is_not():
    ask(slow=Counted(0.002), quick=Counted(0))
    assert not ask(2, slow=Counted(0), quick=Counted(0)).is_cached
    assert not ask(slow=Counted(0), another=Counted(0)).is_cached
    ask(slow=Counted(0.002), quick=Counted(0))
    only = ask(slow=Counted(0))
    assert only.is_cached and only.quickest == "slow"


def test_a_candidate_that_raises_is_out_and_its_reason_is_kept():
    assert ask(broken=fails, other=Counted(0)).quickest == "other"
    kept = ask(broken=fails, other=Counted(0))
    assert kept.is_cached and kept.problems == {"broken": "RuntimeError: no kernel for this head size"}
    assert ask(3, broken=fails).quickest is None


def test_a_candidate_that_ran_out_of_memory_is_measured_again():
    assert ask(large=runs_out, other=Counted(0)).quickest == "other"
    assert not ask(large=runs_out, other=Counted(0)).is_cached


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"key": 1}', "null"])
def test_an_unreadable_file_is_measured_again(damage: str):
    ask(one=Counted(0))
    (path,) = timings_folder().iterdir()
    path.write_text(damage, encoding="utf-8")
    assert not ask(one=Counted(0)).is_cached
    assert ask(one=Counted(0)).is_cached


def test_a_folder_that_cannot_be_written_only_costs_the_measurement(home: Path):
    (home / "dimba").write_text("a file", encoding="utf-8")
    assert ask(one=Counted(0)).quickest == "one"


def test_measuring_leaves_the_random_numbers_as_recalling_does():
    drawn = []
    for _ in range(2):
        torch.manual_seed(0)
        ask(random=lambda: torch.rand(3))
        drawn.append(torch.rand(1).item())
    assert drawn[0] == drawn[1]


def test_the_first_rank_decides_for_the_others(monkeypatch: pytest.MonkeyPatch):
    other = Counted(0)
    answer = timings.Timings({"slow": 1.0, "quick": 2.0})
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(torch.distributed, "broadcast_object_list", lambda holder, src: holder.__setitem__(0, answer))
    assert ask(slow=other, quick=other) is answer and other.calls == 0
