"""Checkpoints of a trainer, resuming from them, and runs that end by themselves."""

import io
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from dimba.common.checkpoints import complete_checkpoints, newest_checkpoint, step_of
from tests.conftest import write_rows

pytestmark = pytest.mark.slow
FLAGS = ("--batch-size", "4", "--grad-accumulation-steps", "1", "--max-length", "64", "--device", "cpu")
CHATS = [{"prompt": f"Count to {n}", "response": f"{n}."} for n in range(40)]
SUMS = [{"question": f"What is {n} + {n}?", "answer": str(2 * n)} for n in range(12)]
GROUPS = ("--batch-size", "8", "--num-generations", "4", "--max-completion-length", "6", "--max-length", "96")


@pytest.fixture(autouse=True)
def _own_caches(monkeypatch: pytest.MonkeyPatch, caches: Path) -> Iterator[None]:
    monkeypatch.setattr("dimba.trainers.data.tokenization.cache_folder", lambda: caches / "tokens")
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(caches))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


def sft(base: Path, folder: Path, out: Path, *flags: object, status: int = 0) -> str:
    from dimba.objectives.sft import SFT
    from dimba.trainers.objectives.sft.train import train

    rows = write_rows(folder / "chats.jsonl", CHATS)
    return run(train, SFT, base, rows, out, *FLAGS, *flags, status=status)


def grpo(base: Path, folder: Path, out: Path, *flags: object, status: int = 0) -> str:
    from dimba.objectives.grpo import GRPO
    from dimba.trainers.objectives.grpo.train import train

    rows = write_rows(folder / "sums.jsonl", SUMS)
    own = ("--grad-accumulation-steps", "1", "--device", "cpu", "--learning-rate", "1e-3", *GROUPS)
    return run(train, GRPO, base, rows, out, *own, *flags, status=status)


def run(train: Any, objective: Any, base: Path, rows: Path, out: Path, *flags: object, status: int) -> str:
    """The output of the script, run in this process: importing the training packages takes longer than training."""
    from dimba.trainers.command import run_trainer

    named = {"--base-checkpoint": base, "--dataset": rows, "--output-dir": out}
    argv = [str(each) for pair in named.items() for each in pair] + [str(each) for each in flags]
    text = io.StringIO()
    with redirect_stdout(text), redirect_stderr(text):
        ended = run_trainer(train, objective.parse(argv))
    assert ended == status, text.getvalue()
    return text.getvalue()


def trained_weights(folder: Path) -> dict[str, Any]:
    (file,) = [*folder.glob("model.safetensors"), *folder.glob("adapter_model.safetensors")]
    return load_file(file)


KINDS: dict[str, tuple[Callable[..., str], tuple[str, ...]]] = {
    "full": (sft, ("--max-steps", "8")),
    "lora": (sft, ("--max-steps", "8", "--use-lora", "--lora-r", "4")),
    "qlora": (sft, ("--max-steps", "8", "--use-qlora", "--lora-r", "4")),
    "accumulated": (sft, ("--max-steps", "8", "--grad-accumulation-steps", "2")),
    "grpo": (grpo, ("--max-steps", "6")),
    "grpo with lora": (grpo, ("--max-steps", "6", "--use-lora", "--lora-r", "4")),
}


PROVED = ("lora", "accumulated", "grpo with lora")  # the others are quick tests


@pytest.mark.parametrize(
    "kind", [pytest.param(each, marks=pytest.mark.proof if each in PROVED else ()) for each in KINDS]
)
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(
    kind: str, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    train, flags = KINDS[kind]
    train(tiny_checkpoint, tmp_path, tmp_path / "uninterrupted", *flags)
    stop_at(4, monkeypatch)
    train(tiny_checkpoint, tmp_path, tmp_path / "cut", *flags, status=143)
    newest = newest_checkpoint(tmp_path / "cut")
    assert newest and step_of(newest) == 4 and not list((tmp_path / "cut").glob("*model.safetensors"))
    monkeypatch.undo()
    train(tiny_checkpoint, tmp_path, tmp_path / "cut", *flags, "--resume-from-checkpoint", tmp_path / "cut")
    uninterrupted, cut = trained_weights(tmp_path / "uninterrupted"), trained_weights(tmp_path / "cut")
    assert uninterrupted.keys() == cut.keys()
    assert max(float((uninterrupted[name] - cut[name]).abs().max()) for name in uninterrupted) < 1e-6


def test_a_forward_pass_without_gradients_does_not_change_later_gradients_of_a_4_bit_model(tiny_checkpoint: Path):
    import torch
    from peft import get_peft_model

    from dimba.objectives.sft import SFT
    from dimba.trainers.models.adapters import adapter_config
    from dimba.trainers.models.loading import choose_compute, load_model

    named = ["--base-checkpoint", str(tiny_checkpoint), "--dataset", "x", "--output-dir", "x", "--use-qlora"]
    args = SFT.parse([*named, "--lora-r", "4"])
    base = load_model(args, choose_compute("cpu"))
    model = get_peft_model(base, adapter_config(args, base))
    ids = torch.arange(20)[None]

    def gradients() -> list[Any]:
        model.zero_grad()
        model.train()(input_ids=ids, labels=ids).loss.backward()
        return [each.grad.clone() for each in model.parameters() if each.grad is not None]

    before = gradients()
    with torch.no_grad():
        model.eval()(input_ids=ids)
    assert all(torch.equal(one, other) for one, other in zip(before, gradients(), strict=True))


def stop_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sends SIGTERM in the middle of this step."""
    from dimba.trainers.objectives.callbacks import StopOnSignal

    before = StopOnSignal.on_step_end

    def on_step_end(self, args, state, control, **rest):
        if state.global_step == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return before(self, args, state, control, **rest)

    monkeypatch.setattr(StopOnSignal, "on_step_end", on_step_end)


def test_save_total_limit_checkpoints_are_kept_without_pickled_arguments(tiny_checkpoint: Path, tmp_path: Path):
    out = tmp_path / "out"
    sft(tiny_checkpoint, tmp_path, out, "--max-steps", "9", "--save-steps", "2", "--save-total-limit", "2")
    assert [step_of(each) for each in complete_checkpoints(out)] == [8, 9]
    assert not list(out.rglob("training_args.bin")) and not (out / ".saving").exists()


def test_a_loss_of_nan_fails_the_run_and_is_not_saved(tiny_checkpoint: Path, tmp_path: Path):
    out = tmp_path / "out"
    flags = ("--max-steps", "40", "--save-steps", "1", "--learning-rate", "1e30")
    text = sft(tiny_checkpoint, tmp_path, out, *flags, status=1)
    assert "the loss is not a number since step" in text and "training.learning_rate" in text
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    first = next(line["step"] for line in lines if line["loss"] is None)
    assert all(step_of(each) < first for each in complete_checkpoints(out))
    assert not (out / "model.safetensors").exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with space for one and a half checkpoints."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=7m", "none", str(place)], check=False).returncode
    if mounted != 0:
        pytest.skip("only root may mount a file system")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_keeps_the_last_checkpoint_and_reports_the_needed_space(
    tiny_checkpoint: Path, tmp_path: Path, small_disk: Path
):
    out = small_disk / "out"
    text = sft(tiny_checkpoint, tmp_path, out, "--max-steps", "9", "--save-steps", "2", status=1)
    assert "is full: a checkpoint needs" in text and "are free" in text and "checkpoint-2 is kept" in text
    assert [step_of(each) for each in complete_checkpoints(out)] == [2] and not (out / ".saving").exists()


def test_a_disk_that_fills_up_during_a_save_is_reported_the_same_way(
    tiny_checkpoint: Path, tmp_path: Path, small_disk: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("dimba.trainers.models.checkpoints._expected_bytes", lambda *_: 1)
    out = small_disk / "out"
    text = sft(tiny_checkpoint, tmp_path, out, "--max-steps", "9", "--save-steps", "2", status=1)
    assert "is full: a checkpoint needs" in text and "checkpoint-2 is kept" in text, text
    assert [step_of(each) for each in complete_checkpoints(out)] == [2] and not (out / ".saving").exists()
