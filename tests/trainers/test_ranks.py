"""Several processes train like one: the same rows per step, the same weights, one log, one checkpoint."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, write_rows
from tests.trainers.test_sft import run as train_here
from tests.weights import largest_difference, saved_rank_count

FLAGS = ["--device", "cpu", "--num-epochs", "2", "--batch-size", "2", "--learning-rate", "1e-3", "--max-length", "64"]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """13 rows, a multiple of no batch size, beside the user's own accelerate configuration, which must be ignored."""
    default_config = tmp_path / "hf" / "accelerate" / "default_config.yaml"
    default_config.parent.mkdir(parents=True)
    default_config.write_text("{distributed_type: FSDP, mixed_precision: bf16, num_processes: 7, fsdp_config: {x: 1}}")
    return write_rows(tmp_path / "data.jsonl", [{"prompt": f"Count to {n}", "response": "1" * n} for n in range(1, 14)])


def train(folder: Path, base: Path, rows: Path, processes: int, *further: str) -> subprocess.CompletedProcess[str]:
    """Runs finetune_sft.py as the launcher does, through the entry point."""
    named = ["--base-checkpoint", str(base), "--dataset", str(rows), "--output-dir", str(folder), *FLAGS, *further]
    script = REPOSITORY / "scripts/finetuning/finetune_sft.py"
    job = start(rows.parent, processes, str(script), *named)
    out, _ = job.communicate(timeout=300)
    return subprocess.CompletedProcess(job.args, job.returncode, out)


def start(folder: Path, processes: int, *trainer: str, way: str = "") -> "subprocess.Popen[str]":
    """Starts a trainer on `processes` ranks; `way` are the flags that tell accelerate how to connect them."""
    launcher = f"accelerate launch --quiet --num_machines 1 --num_processes {processes} --mixed_precision no".split()
    several = ["--multi_gpu", "--main_process_port", "0"] if processes > 1 else ["--cpu"]
    several = way.split() or several
    wrapped = [*launcher, *several, "--dynamo_backend", "no", "-m", "dimba.supervisor.rank", *trainer]
    return subprocess.Popen(
        [sys.executable, "-m", "dimba.supervisor.entry", *wrapped],
        env={
            **os.environ,
            "ACCELERATE_USE_CPU": "true",
            "OMP_NUM_THREADS": "1",
            "HF_HOME": str(folder / "hf"),
            "PYTHONPATH": str(REPOSITORY),
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.proof
@pytest.mark.parametrize(
    ("many", "method"),
    [
        pytest.param(2, (), id="two"),
        pytest.param(2, ("--use-lora", "--activation-checkpointing", "1"), id="two, LoRA, a layer recomputed"),
        pytest.param(2, ("--stream", "--max-steps", "4"), id="two, streamed"),
        pytest.param(4, (), id="four"),
    ],
)
def test_several_processes_train_the_same_weights_as_one(
    tiny_checkpoint: Path,
    rows: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    many: int,
    method: tuple[str, ...],
):
    monkeypatch.setattr("dimba.trainers.data.tokenization.cache_folder", lambda: tmp_path / "tokens")
    one, several = tmp_path / "1", tmp_path / str(many)
    flags = ("--save-steps", "3", *method, "--grad-accumulation-steps")
    train_here(tiny_checkpoint, rows, one, *FLAGS, *flags, "4", "--activation-checkpointing", "off")
    done = train(several, tiny_checkpoint, rows, many, *flags, str(4 // many))
    assert done.returncode == 0, done.stdout
    assert saved_rank_count(several) == many
    assert largest_difference(one, several) < 1e-5
    seen = [(folder / "metrics.jsonl").read_text().splitlines() for folder in (one, several)]
    tokens = [[json.loads(line)["num_tokens"] for line in lines] for lines in seen]
    assert tokens[0] == tokens[1] and len(tokens[0]) == 4, "two steps per epoch, the same rows in each"


@pytest.mark.proof
def test_an_unusable_streamed_row_of_one_rank_stops_all_with_a_checkpoint(
    tiny_checkpoint: Path, rows: Path, tmp_path: Path
):
    more = [{"prompt": f"Count to {n}", "response": "1" if n != 1005 else None} for n in range(1, 1100)]
    data = write_rows(tmp_path / "more.jsonl", more)
    flags = ("--stream", "--max-steps", "9", "--batch-size", "64", "--grad-accumulation-steps", "1")
    done = train(tmp_path / "out", tiny_checkpoint, data, 2, *flags)
    assert done.returncode == 2 and done.stdout.count(f"{data}:1005: `response` is null") == 1, done.stdout
    assert list((tmp_path / "out").glob("checkpoint-*"))


BROKEN = """\
import os, signal, time
if os.environ["RANK"] == "1":
    time.sleep(1)
    %s
time.sleep(100)
"""


@pytest.mark.parametrize(
    ("end", "status", "output"),
    [
        pytest.param("raise SystemExit('rank one broke')", 1, "rank one broke", marks=pytest.mark.proof),
        ("os.kill(os.getpid(), signal.SIGKILL)", 137, ""),
    ],
)
def test_a_rank_that_fails_ends_the_other_ranks(rows: Path, end: str, status: int, output: str):
    script = rows.parent / "broken.py"
    script.write_text(BROKEN % end, encoding="utf-8")
    job = start(rows.parent, 2, str(script))
    out, _ = job.communicate(timeout=60)
    assert job.returncode == status and output in out


@pytest.mark.proof
def test_two_jobs_of_two_processes_run_at_the_same_time(rows: Path):
    script = rows.parent / "meet.py"
    meet = "import torch\ntorch.distributed.init_process_group('gloo')\nprint(torch.distributed.get_world_size())\n"
    script.write_text(meet, encoding="utf-8")
    jobs = [start(rows.parent, 2, str(script)) for _ in range(2)]
    for job in jobs:
        out, _ = job.communicate(timeout=120)
        assert job.returncode == 0 and "".join(out.split()) == "22", out  # their lines may run together


def test_one_process_in_place_of_two_fails_the_job(rows: Path):
    job = start(rows.parent, 2, "never.py", way="--cpu")
    out, _ = job.communicate(timeout=60)
    assert job.returncode == 1 and "accelerate started 1 of the 2 requested processes" in out
