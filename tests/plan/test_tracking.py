"""`save_best`, `early_stop` and `report_to` at plan: their flags, and what they need."""

from dataclasses import replace
from pathlib import Path

import pytest

from dimba.common.errors import BadInput
from dimba.host.facts import ImageFacts
from dimba.plan.build import Choices, make_plan
from dimba.plan.tracking import remote_trackers, tracker_notes, tracker_problems
from dimba.spec import JobSpec, parse_spec
from tests.conftest import Dimba
from tests.plan.pure import no_disk
from tests.plan.test_plan import FACTS, SPARSE


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


def spec_with(report_to: str, more: str = "") -> JobSpec:
    return parse_spec(f"{SPARSE}training: {{report_to: {report_to}}}\n{more}".encode(), source="x").spec


def test_several_trackers_reach_the_trainer_by_one_flag():
    trainer = replace(FACTS.trainer, flags=FACTS.trainer.flags | {"--report-to"})
    image = ImageFacts(reference="ours", key=None, base=None, base_digest=None, id="sha256:1")
    facts = replace(FACTS, trainer=trainer, image=image, environment=frozenset({"WANDB_API_KEY"}))
    spec = spec_with("[wandb, mlflow]", "container: {env: [WANDB_API_KEY], image: ours}\n")
    with no_disk():
        made = make_plan(spec, facts, Choices())
    assert " --report-to wandb mlflow " in f" {' '.join(made.argv)} " and made.network == "bridge"
    assert any("wandb sends the metrics to its server" in note for note in made.notes)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("comet", "`comet` is none of none, trackio, tensorboard, wandb, mlflow"),
        ("[wandb, comet]", "`comet` is none of"),
        ("[wandb, wandb]", "name each tracker once"),
        ("[none, wandb]", "or `none` alone"),
        ("[]", "is not one of none, trackio"),
        ("5", "`5` is none of"),
    ],
)
def test_a_value_that_is_no_list_of_trackers_is_refused(value: str, problem: str):
    with pytest.raises(BadInput, match=problem.replace("`", ".")):
        spec_with(value)


@pytest.mark.parametrize(
    ("value", "env", "remote"),
    [
        ("trackio", "[]", ()),
        ("[trackio, tensorboard, mlflow]", "[]", ()),
        ("[trackio, wandb]", "[]", ("wandb",)),
        ("wandb", "[WANDB_MODE=offline]", ()),
        ("mlflow", "[MLFLOW_TRACKING_URI]", ("mlflow",)),
        ("mlflow", "['MLFLOW_TRACKING_URI=http://tracker:5000']", ("mlflow",)),
        ("mlflow", "['MLFLOW_TRACKING_URI=sqlite:////data/m.db']", ()),
        ("trackio", "[TRACKIO_SPACE_ID=me/runs]", ("trackio",)),
        ("none", "[TRACKIO_SPACE_ID=me/runs]", ()),
    ],
)
def test_which_trackers_send_metrics_elsewhere(value: str, env: str, remote: tuple[str, ...]):
    assert remote_trackers(spec_with(value, f"container: {{env: {env}}}\n")) == remote


def test_the_plan_states_beforehand_where_the_metrics_go(tmp_path: Path):
    trackio, board, wandb = tracker_notes(spec_with("[trackio, tensorboard, wandb]"), tmp_path)
    assert f"trackio writes to {tmp_path}/trackio, without a network" in trackio
    assert "tensorboard writes beside the log" in board
    assert "wandb sends the metrics to its server, and needs a network" in wandb


def test_each_missing_package_is_an_error_of_its_own():
    found = [str(each) for each in tracker_problems(spec_with("[trackio, mlflow]"), FACTS, lambda _: False)]
    assert len(found) == 2 and "trackio is not installed in the image" in found[0] and "mlflow" in found[1]


def test_a_tracker_elsewhere_without_a_network_is_refused():
    spec = spec_with("wandb", "container: {env: [WANDB_API_KEY], network: none}\n")
    [problem] = tracker_problems(spec, FACTS, lambda _: True)
    assert "`network: none` forbids it" in str(problem) and "WANDB_MODE=offline" in str(problem)
