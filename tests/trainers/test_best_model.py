"""`--save-best`, `--early-stop` and `--report-to`: what an evaluation decides, and where metrics go."""

import io
import json
import os
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

pytest.importorskip("torch")

from safetensors.torch import load_file
from transformers import TrainerCallback
from transformers.integrations import integration_utils

from dimba.objectives.sft import SFT
from dimba.trainers.command import run_trainer
from dimba.trainers.objectives.evaluations import EndEarly
from dimba.trainers.objectives.sft.train import train
from tests.conftest import QUESTIONS, write_rows

pytestmark = pytest.mark.slow
# A rate at which the loss of the held-out rows rises again within a few steps.
RISING = (
    *("--validation-split", "4", "--eval-steps", "1", "--scheduler", "constant", "--warmup", "0"),
    *("--batch-size", "8", "--grad-accumulation-steps", "1"),
)
RATES = {"--use-lora": "1", "full": "1e-1"}


def run(base: Path, folder: Path, *flags: str) -> tuple[int, str]:
    data, output = write_rows(folder / "data.jsonl", QUESTIONS), io.StringIO()
    named = ["--base-checkpoint", str(base), "--dataset", str(data), "--output-dir", str(folder / "out")]
    with redirect_stdout(output), redirect_stderr(output):
        status = run_trainer(train, SFT.parse([*named, "--device", "cpu", *(each for each in flags if each != "full")]))
    return status, output.getvalue()


def losses(folder: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (folder / "out" / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["eval_loss"] for line in lines if "eval_loss" in line}


@pytest.mark.parametrize(("method", "rate"), RATES.items(), ids=["LoRA", "full"])
def test_the_step_with_the_lowest_validation_loss_is_saved(
    method: str, rate: str, tiny_checkpoint: Path, tmp_path: Path
):
    flags = ("--max-steps", "4", "--save-best", "--save-total-limit", "1", "--save-steps", "3", "--learning-rate", rate)
    status, output = run(tiny_checkpoint, tmp_path, method, *RISING, *flags)
    found = losses(tmp_path)
    best = min(found, key=lambda step: found[step])
    assert status == 0 and best < 3, found
    assert f"the best model is saved, of step {best}: validation loss {found[best]:.4f}" in output
    out, name = tmp_path / "out", "adapter_model.safetensors" if method != "full" else "model.safetensors"
    saved, kept = load_file(out / name), load_file(out / f"checkpoint-{best}" / name)
    assert saved.keys() == kept.keys() and all(saved[each].equal(kept[each]) for each in saved)
    assert "warning" not in output


def test_the_best_checkpoint_outlives_a_resumption(tiny_checkpoint: Path, tmp_path: Path):
    flags = (*RISING, "--use-lora", "--learning-rate", RATES["--use-lora"], "--save-best", "--save-total-limit", "1")
    run(tiny_checkpoint, tmp_path, *flags, "--max-steps", "4", "--save-steps", "3")
    whole, found = load_file(tmp_path / "out" / "adapter_model.safetensors"), losses(tmp_path)
    assert min(found, key=lambda step: found[step]) < 3
    for file in (tmp_path / "out").glob("*.*"):
        file.unlink()
    resumed = ("--resume-from-checkpoint", str(tmp_path / "out"))
    _, output = run(tiny_checkpoint, tmp_path, *flags, "--max-steps", "4", "--save-steps", "3", *resumed)
    again = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert all(again[name].equal(whole[name]) for name in whole), output


def history(*values: float) -> Any:
    logs = [{"eval_loss": value, "step": number} for number, value in enumerate(values)]
    return SimpleNamespace(log_history=logs, global_step=len(values), max_steps=100, is_world_process_zero=True)


@pytest.mark.parametrize(
    ("values", "ends"),
    [
        ((3.0, 2.0, 2.5), False),
        ((3.0, 2.0, 2.5, 2.0), True),
        ((3.0, 2.0, 2.5, 1.9), False),
        ((float("nan"), float("nan"), float("nan")), True),
    ],
)
def test_patience_counts_evaluations_since_the_lowest_loss(values: tuple[float, ...], ends: bool):
    control = SimpleNamespace(should_training_stop=False)
    EndEarly(2).on_evaluate(None, history(*values), control)  # type: ignore[arg-type]
    assert control.should_training_stop == ends


def test_training_ends_early_and_saves(tiny_checkpoint: Path, tmp_path: Path):
    flags = (*RISING, "--max-steps", "40", "--early-stop", "2", "--learning-rate", "1e-1")
    status, output = run(tiny_checkpoint, tmp_path, *flags)
    assert status == 0 and "no lower validation loss in 2 evaluations" in output
    assert max(losses(tmp_path)) < 40 and (tmp_path / "out" / "model.safetensors").is_file()


@pytest.mark.parametrize("flags", [("--save-best",), ("--early-stop", "3")])
def test_without_validation_rows_both_are_refused(flags: tuple[str, ...], tiny_checkpoint: Path, tmp_path: Path):
    status, output = run(tiny_checkpoint, tmp_path, *flags)
    assert status == 2 and f"error: {flags[0]}: needs validation rows" in output


def test_a_tracker_that_is_not_installed_is_refused(tiny_checkpoint: Path, tmp_path: Path):
    status, output = run(tiny_checkpoint, tmp_path, "--report-to", "trackio")
    assert status == 2 and "trackio is not installed here" in output


class FakeTracker(TrainerCallback):
    """Stands in for the library's callback of a tracker; keeps what it gets."""

    about: ClassVar[dict[str, Any]] = {}
    logged: ClassVar[list[dict[str, Any]]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.about.update(name=args.run_name, folder=os.environ["WANDB_DIR"], run=os.environ["WANDB_RUN_ID"])
        self.about.update(trackio=os.environ["TRACKIO_DIR"], mlflow=os.environ["MLFLOW_TRACKING_URI"])

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        self.logged.append(dict(logs))


def test_trackers_get_the_metrics_under_the_runs_name_and_write_in_the_output_folder(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for tracker in ("wandb", "trackio"):
        monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, tracker, FakeTracker)
    monkeypatch.setattr("dimba.trainers.objectives.trackers.is_installed", lambda _package: True)
    monkeypatch.setenv("DIMBA_RUN_ID", "20261128-sft")
    mlflow = ("MLFLOW_TRACKING_URI", "MLFLOW_ALLOW_FILE_STORE", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_DISABLE_TELEMETRY")
    for name in ("TENSORBOARD_LOGGING_DIR", "TRACKIO_DIR", "WANDB_DIR", "WANDB_RUN_ID", "WANDB_RESUME", *mlflow):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    status, output = run(tiny_checkpoint, tmp_path, "--report-to", "wandb", "trackio", "--use-lora", "--max-steps", "2")
    assert status == 0, output
    out = str(tmp_path / "out")
    written = {"trackio": f"{out}/trackio", "mlflow": f"sqlite:///{out}/mlflow/mlflow.db"}
    assert FakeTracker.about == {"name": "20261128-sft", "folder": out, "run": "20261128-sft"} | written
    assert sum("loss" in logs for logs in FakeTracker.logged) == 4  # two steps, in each
    assert (tmp_path / "out" / "trackio").is_dir() and not (tmp_path / "out" / "mlflow").exists()
