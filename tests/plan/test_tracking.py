"""`save_best`, `early_stop` and `report_to` at plan: their flags, and what they need."""

from pathlib import Path

import pytest

from tests.conftest import Dimba


def edit(job: Path, old: str, new: str) -> None:
    text = (job / "job.yaml").read_text(encoding="utf-8")
    assert old in text
    (job / "job.yaml").write_text(text.replace(old, new, 1), encoding="utf-8")


@pytest.fixture
def planned(job: Path, tiny_checkpoint: Path, dimba: Dimba):
    def plan(training: str, more: str = "") -> tuple[int, str]:
        edit(job, "base_checkpoint: base", f"base_checkpoint: {tiny_checkpoint}")
        edit(job, "training: {", f"{more}training: {{{training}, ")
        done = dimba("plan", "job.yaml", cwd=job)
        return done.returncode, " ".join((done.stdout + done.stderr).split())

    return plan


HELD_OUT = "trainer_args: {validation-split: 0.25, eval-steps: 1}\n"


def test_flags_reach_the_trainer(planned):
    status, text = planned("save_best: true, early_stop: 2", HELD_OUT)
    assert status == 0 and "--save-best --early-stop 2" in text, text


@pytest.mark.parametrize("key", ["save_best: true", "early_stop: 3"])
def test_without_validation_rows_both_are_refused(key: str, planned):
    status, text = planned(key)
    assert status == 2 and f"training.{key.partition(':')[0]}: needs validation rows" in text
    assert "trainer_args: {validation-split: 0.05}" in text


def test_an_objective_without_a_validation_loss_refuses_them(job: Path, planned):
    edit(job, "mode: sft", "mode: grpo")
    status, text = planned("save_best: true", HELD_OUT.replace(", eval-steps: 1", ""))
    assert status == 2 and "`mode: grpo` has no validation loss" in text and "no flag" not in text


def test_a_patience_that_no_run_can_reach_is_reported(planned):
    status, text = planned("early_stop: 3, epochs: 3", "trainer_args: {validation-split: 0.25}\n")
    assert status == 0 and "training.early_stop: 3 cannot act: one evaluation per epoch, 3 in all" in text


def test_a_tracker_that_the_job_lacks_is_refused(planned):
    status, text = planned("report_to: trackio")
    assert status == 2 and "training.report_to: trackio is not installed" in text
