"""The messages and exit statuses of a trainer, on each of its ranks."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dimba.common.errors import BadInput, RunFailed, from_json
from dimba.objectives.sft import SFT
from dimba.options.trainer import TrainerOptions
from dimba.trainers.command import run_trainer

OPTIONS = SFT.parse(["--base-checkpoint", "base", "--dataset", "rows", "--output-dir", "out"])
FAILED, REFUSED = RunFailed("a.jsonl:3: the reward `f` fails", "correct it"), BadInput("a.jsonl:3: no answer")


def exit_status(rank: int, error: Exception, patch: pytest.MonkeyPatch) -> int:
    """The exit status of a rank whose training raises `error`."""

    def train(_options: TrainerOptions) -> int:
        raise error

    patch.setenv("RANK", str(rank))
    return run_trainer(train, OPTIONS)


def test_each_distinct_error_of_any_rank_is_printed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DIMBA_RANK_DIR", str(tmp_path))
    given = [(3, FAILED), (0, FAILED), (1, REFUSED), (0, RunFailed("other"))]
    assert [exit_status(rank, error, monkeypatch) for rank, error in given] == [1, 1, 2, 1]
    assert capsys.readouterr().err == f"error: {FAILED}\nerror: {REFUSED}\nerror: other\n"
    assert from_json(json.loads((tmp_path / "word.json").read_text())).message == REFUSED.message


def test_an_exception_that_follows_another_ranks_reported_error_prints_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DIMBA_RANK_DIR", str(tmp_path))
    with pytest.raises(RuntimeError, match="a fault"):
        exit_status(0, RuntimeError("a fault"), monkeypatch)
    assert [exit_status(1, FAILED, monkeypatch), exit_status(0, RuntimeError("closed by peer"), monkeypatch)] == [1, 1]
    assert capsys.readouterr().err == f"error: {FAILED}\n"


def test_ranks_without_a_shared_folder_print_a_common_refusal_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("DIMBA_RANK_DIR", raising=False)
    for rank in (1, 0):
        exit_status(rank, REFUSED, monkeypatch)
    exit_status(1, FAILED, monkeypatch)
    assert capsys.readouterr().err == f"error: {REFUSED}\nerror: {FAILED}\n"


CONNECTED = """
import atexit, sys
import torch.distributed as connected
from dimba.common.errors import HostCannot
from dimba.objectives.sft import SFT
from dimba.trainers.command import run_trainer

def meet(_options):
    connected.init_process_group("gloo", init_method=f"file://{sys.argv[1]}/met", rank=0, world_size=1)
    print("trained")  # not flushed
    if sys.argv[2] == "refuses":
        raise HostCannot("no GPU")
    return 7

atexit.register(lambda: print("still connected" if connected.is_initialized() else "disconnected"))
run_trainer(meet, SFT.parse(["--base-checkpoint", "base", "--dataset", "rows", "--output-dir", "out"]))
print("interpreter shut down with its threads")
"""


@pytest.mark.parametrize(
    ("how", "status", "output"), [("ends", 7, "trained\ndisconnected\n"), ("refuses", 3, "trained\nstill connected\n")]
)
def test_a_connected_rank_exits_at_once_with_its_own_status(how: str, status: int, output: str, tmp_path: Path):
    command = [sys.executable, "-c", CONNECTED, str(tmp_path), how]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (status, output), done.stderr
