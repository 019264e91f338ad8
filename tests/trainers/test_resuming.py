"""A trainer alone continues from a checkpoint with what the checkpoint was trained with, or refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dimba.common.checkpoints import file_sizes
from dimba.common.contract import COMPLETE_FILE, ENV_ANYWAY
from dimba.common.errors import BadInput
from dimba.objectives.dpo import DPO
from dimba.objectives.grpo import GRPO
from dimba.objectives.sft import SFT
from dimba.trainers.models.checkpoints import TRAINED_WITH_FILE
from dimba.trainers.objectives.resuming import beginning_of, trained_with
from tests.conftest import QUESTIONS, REPOSITORY, write_rows

MODES = {"sft": SFT, "dpo": DPO, "grpo": GRPO}


class Job:
    """A base, data and a checkpoint that notes what it was trained with."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.base, self.data = folder, folder / "base", folder / "rows.jsonl"
        self.checkpoint = folder / "out" / "checkpoint-2"
        self.base.mkdir()
        for name, text in {"config.json": "{}", "model.safetensors": "weights", "README.md": "of a model"}.items():
            (self.base / name).write_text(text, encoding="utf-8")
        write_rows(self.data, QUESTIONS)

    def options(self, *flags: str, mode: str = "sft", resume: bool = True):
        named = ["--base-checkpoint", str(self.base), "--dataset", str(self.data), "--output-dir", str(self.folder)]
        return MODES[mode].parse([*named, *flags, *(["--resume-from-checkpoint", str(self.checkpoint)] * resume)])

    def save(self, *flags: str, mode: str = "sft", note: bool = True) -> None:
        self.checkpoint.mkdir(parents=True, exist_ok=True)
        (self.checkpoint / "trainer_state.json").write_text("{}", encoding="utf-8")
        if note:
            values = trained_with(self.options(*flags, mode=mode, resume=False), mode)
            (self.checkpoint / TRAINED_WITH_FILE).write_text(json.dumps(values), encoding="utf-8")
        listed = {"files": file_sizes(self.checkpoint)}
        (self.checkpoint / COMPLETE_FILE).write_text(json.dumps(listed), encoding="utf-8")

    def refusal(self, *flags: str, mode: str = "sft") -> BadInput:
        with pytest.raises(BadInput, match="was trained with something else") as raised:
            beginning_of(self.options(*flags, mode=mode), MODES[mode])
        return raised.value


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", [[], ["--use-lora"], ["--use-qlora"]])
def test_the_same_continues_in_silence_and_more_steps_or_another_rate_too(
    mode: str, method: list[str], job: Job, capsys: pytest.CaptureFixture[str]
):
    job.save(*method, mode=mode)
    longer = job.options(*method, "--max-steps", "99", "--learning-rate", "1e-6", "--save-steps", "7", mode=mode)
    assert beginning_of(longer, MODES[mode]).checkpoint == str(job.checkpoint)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("before", "now", "line"),
    [
        ([], ["--max-length", "64"], "--max-length: 1024, now 64"),
        ([], ["--seed", "7"], "--seed: 42, now 7"),
        (["--batch-size", "2"], ["--batch-size", "4"], "effective batch: "),
        (["--use-lora"], ["--use-lora", "--lora-alpha", "64"], "--lora-alpha: "),
        ([], ["--columns", "prompt=question"], "--columns: none, now "),
        ([], ["--validation-split", "2"], "--validation-split: "),
    ],
)
def test_another_setting_is_refused_with_both_values_and_continued_anyway(
    before: list[str],
    now: list[str],
    line: str,
    job: Job,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    job.save(*before)
    error = job.refusal(*now)
    assert line in error.message and "now" in error.message and error.exit_status == 2
    assert error.key == "--resume-from-checkpoint" and ENV_ANYWAY in error.hint
    monkeypatch.setenv(ENV_ANYWAY, "1")
    assert beginning_of(job.options(*now), SFT).checkpoint
    printed = capsys.readouterr().out
    assert line in printed and printed.count("\n") == 1


@pytest.mark.parametrize(
    ("before", "now", "mode", "label"),
    [
        (["--use-lora"], [], "sft", "method: lora, now full"),
        (["--use-lora", "--lora-r", "8"], ["--use-lora", "--lora-r", "16"], "sft", "--lora-r: 8, now 16"),
        (["--use-lora"], ["--use-lora", "--lora-target-modules", "q_proj"], "sft", "--lora-target-modules: "),
        ([], [], "dpo", "mode: sft, now dpo"),
        ([], ["--optimizer", "adafactor"], "sft", "--optimizer: "),
    ],
)
def test_what_the_saved_tensors_do_not_fit_is_refused_even_anyway(
    before: list[str], now: list[str], mode: str, label: str, job: Job, monkeypatch: pytest.MonkeyPatch
):
    job.save(*before)
    monkeypatch.setenv(ENV_ANYWAY, "1")
    error = job.refusal(*now, mode=mode)
    assert label in error.message and ENV_ANYWAY not in error.hint


def test_base_and_data_are_known_by_content_wherever_they_lie(job: Job):
    job.save()
    moved = job.folder / "moved"
    job.base.rename(moved)
    job.base = moved
    (moved / "README.md").write_text("of another day", encoding="utf-8")
    elsewhere = job.folder / "elsewhere.jsonl"
    job.data.rename(elsewhere)
    job.data = elsewhere
    assert beginning_of(job.options(), SFT).checkpoint
    (moved / "model.safetensors").write_text("others", encoding="utf-8")
    assert "--base-checkpoint: " in job.refusal().message
    (moved / "model.safetensors").write_text("weights", encoding="utf-8")
    with elsewhere.open("a", encoding="utf-8") as file:
        file.write('{"prompt": "one", "response": "more"}\n')
    assert "--dataset: " in job.refusal().message


def test_a_large_file_that_differs_at_its_end_differs(job: Job):
    job.save()
    large = job.base / "model.safetensors"
    with large.open("wb") as file:
        file.truncate(40 << 20)
    job.save()
    assert beginning_of(job.options(), SFT).checkpoint
    with large.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")
    assert "--base-checkpoint: " in job.refusal().message


def test_a_checkpoint_without_the_note_continues_with_a_line(job: Job, capsys: pytest.CaptureFixture[str]):
    job.save(note=False)
    assert beginning_of(job.options("--seed", "9"), SFT).checkpoint
    assert "has no note of what it was trained with" in capsys.readouterr().out
    (job.checkpoint / "adapter_config.json").write_text('{"r": 8}', encoding="utf-8")
    job.save(note=False)
    assert "--lora-r: 8, now 16" in job.refusal("--use-lora", "--lora-r", "16").message
    assert "now full" in job.refusal().message
    assert beginning_of(job.options("--use-lora", "--lora-r", "8"), SFT).checkpoint


def test_a_setting_that_an_older_note_lacks_is_not_compared(job: Job):
    job.save()
    note = json.loads((job.checkpoint / TRAINED_WITH_FILE).read_text(encoding="utf-8"))
    del note["max_length"]
    (job.checkpoint / TRAINED_WITH_FILE).write_text(json.dumps(note), encoding="utf-8")
    job.save(note=False)
    assert beginning_of(job.options("--max-length", "64"), SFT).checkpoint


@pytest.mark.proof
def test_a_trainer_alone_refuses_a_checkpoint_of_another_shape_without_a_traceback(
    tiny_checkpoint: Path, tmp_path: Path
):
    data = tmp_path / "rows.jsonl"
    write_rows(data, QUESTIONS)
    script = REPOSITORY / "scripts" / "finetuning" / "finetune_sft.py"
    named = ["--base-checkpoint", str(tiny_checkpoint), "--dataset", str(data), "--output-dir", str(tmp_path / "out")]
    small = ["--use-lora", "--batch-size", "2", "--grad-accumulation-steps", "1", "--save-steps", "1"]

    def run(*flags: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(script), *named, *small, *flags]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    first = run("--max-steps", "1")
    assert first.returncode == 0, first.stdout + first.stderr
    resume = ["--resume-from-checkpoint", str(tmp_path / "out"), "--max-steps", "2"]
    refused = run(*resume, "--lora-r", "4")
    assert refused.returncode == 2 and "--lora-r" in refused.stderr and "Traceback" not in refused.stderr
    continued = run(*resume)
    assert continued.returncode == 0 and "step 2/2" in continued.stdout, continued.stdout + continued.stderr
