"""How a trainer ends, on each of its ranks."""

import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from dimba.common.errors import BadInput, RunFailed, from_json
from dimba.trainers.command import run_trainer

FAILED, REFUSED = RunFailed("a.jsonl:3: the reward `f` fails", "correct it"), BadInput("a.jsonl:3: no answer")


def ended(rank: int, error: Exception, patch: pytest.MonkeyPatch) -> int:
    """The status of a rank whose training ends so."""

    def train(_args: Namespace) -> int:
        raise error

    patch.setenv("RANK", str(rank))
    return run_trainer(train, Namespace())


def test_what_any_rank_runs_into_is_said_and_the_same_only_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DIMBA_RANK_DIR", str(tmp_path))
    given = [(3, FAILED), (0, FAILED), (1, REFUSED), (0, RunFailed("other"))]
    assert [ended(rank, error, monkeypatch) for rank, error in given] == [1, 1, 2, 1]
    assert capsys.readouterr().err == f"error: {FAILED}\nerror: {REFUSED}\nerror: other\n"
    assert from_json(json.loads((tmp_path / "word.json").read_text())).message == REFUSED.message


def test_what_only_follows_from_it_on_another_rank_has_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DIMBA_RANK_DIR", str(tmp_path))
    with pytest.raises(RuntimeError, match="a fault"):
        ended(0, RuntimeError("a fault"), monkeypatch)
    assert [ended(1, FAILED, monkeypatch), ended(0, RuntimeError("closed by peer"), monkeypatch)] == [1, 1]
    assert capsys.readouterr().err == f"error: {FAILED}\n"


def test_ranks_that_share_no_folder_say_once_what_all_are_refused_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DIMBA_RANK_DIR", raising=False)
    for rank in (1, 0):
        ended(rank, REFUSED, monkeypatch)
    ended(1, FAILED, monkeypatch)
    assert capsys.readouterr().err == f"error: {REFUSED}\nerror: {FAILED}\n"


CONNECTED = """
import atexit, sys
from argparse import Namespace
import torch.distributed as connected
from dimba.common.errors import HostCannot
from dimba.trainers.command import run_trainer

def meet(_args):
    connected.init_process_group("gloo", init_method=f"file://{sys.argv[1]}/met", rank=0, world_size=1)
    print("trained")  # not flushed
    if sys.argv[2] == "refuses":
        raise HostCannot("no card")
    return 7

atexit.register(lambda: print("still connected" if connected.is_initialized() else "apart"))
run_trainer(meet, Namespace())
print("taken down with its threads")
"""


@pytest.mark.parametrize(
    ("how", "status", "said"), [("ends", 7, "trained\napart\n"), ("refuses", 3, "trained\nstill connected\n")]
)
def test_a_connected_rank_ends_at_once_and_its_status_is_kept(how: str, status: int, said: str, tmp_path: Path):
    command = [sys.executable, "-c", CONNECTED, str(tmp_path), how]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (status, said), done.stderr
