"""`lora` and `training`: every key reaches the trainer, and what cannot be is refused at plan or validate."""

from pathlib import Path

import pytest

from tests.conftest import Dimba

LORA = (
    "lora: {r: 4, dropout: 0.1, target_modules: [q_proj, v_proj], modules_to_save: [lm_head], use_rslora: true,"
    " use_dora: true, init: gaussian, trainable_tokens: ['<|end|>']}"
)
TRAINING = "{scheduler: cosine, warmup: 0.1, weight_decay: 0.01, max_grad_norm: 0.5, optimizer: adamw_8bit"


def edit(job: Path, old: str, new: str) -> None:
    text = (job / "job.yaml").read_text(encoding="utf-8")
    assert old in text
    (job / "job.yaml").write_text(text.replace(old, new), encoding="utf-8")


def with_base(job: Path, tiny_checkpoint: Path) -> None:
    edit(job, "base_checkpoint: base", f"base_checkpoint: {tiny_checkpoint}")


def argv(job: Path, dimba: Dimba) -> str:
    done = dimba("plan", "job.yaml", cwd=job)
    assert done.returncode == 0, done.stderr
    return " ".join(done.stdout.split())


@pytest.mark.slow
def test_every_key_reaches_the_trainer_as_its_flag(job: Path, tiny_checkpoint: Path, dimba: Dimba):
    with_base(job, tiny_checkpoint)
    edit(job, "method: lora", f"method: lora\n{LORA}")
    edit(job, "training: {", f"training: {TRAINING}, ")
    found = argv(job, dimba)
    for flags in (
        *("--lora-dropout 0.1", "--lora-target-modules q_proj v_proj", "--lora-modules-to-save lm_head"),
        *("--use-rslora", "--use-dora", "--lora-init gaussian", "--scheduler cosine", "--warmup 0.1"),
        *("--weight-decay 0.01", "--max-grad-norm 0.5", "--optimizer adamw_8bit"),
    ):
        assert flags in found, flags


@pytest.mark.slow
def test_defaults_add_no_flag(job: Path, tiny_checkpoint: Path, dimba: Dimba):
    with_base(job, tiny_checkpoint)
    found = argv(job, dimba)
    assert "--lora-r" in found
    assert not any(flag in found for flag in ("--lora-dropout", "--scheduler", "--optimizer", "--lora-init"))


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("lora: {target_modules: [q_porj]}", "did you mean `q_proj`?"),
        ("lora: {modules_to_save: [embed]}", "no module of the base is named `embed`"),
    ],
)
def test_a_name_that_the_base_lacks_is_refused_at_plan(
    line: str, says: str, job: Path, tiny_checkpoint: Path, dimba: Dimba
):
    with_base(job, tiny_checkpoint)
    edit(job, "method: lora", f"method: lora\n{line}")
    done = dimba("plan", "job.yaml", cwd=job)
    assert done.returncode == 2 and says in done.stderr, done.stderr


def test_an_orthogonal_start_on_a_quantised_base_is_refused_at_plan(job: Path, tiny_checkpoint: Path, dimba: Dimba):
    with_base(job, tiny_checkpoint)
    edit(job, "method: lora", "method: qlora\nlora: {init: orthogonal}")
    done = dimba("plan", "job.yaml", cwd=job)
    assert done.returncode == 2 and "lora.init" in done.stderr and "orthogonal" in done.stderr


def test_a_warmup_without_a_scheduler_that_has_one_is_refused(job: Path, dimba: Dimba):
    edit(job, "training: {", "training: {scheduler: constant, warmup: 10, ")
    done = dimba("plan", "job.yaml", cwd=job)
    assert done.returncode == 2 and "constant_with_warmup" in done.stderr


def test_adapter_keys_without_an_adapter_are_reported(job: Path, tiny_checkpoint: Path, dimba: Dimba):
    with_base(job, tiny_checkpoint)
    edit(job, "method: lora", "method: full\nlora: {dropout: 0.1}")
    done = dimba("plan", "job.yaml", cwd=job)
    assert done.returncode == 0 and "dropout without effect" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("lora: {init: pissa}", "changes the base"),
        ("lora: {init: loftq}", "needs data or settings"),
        ("lora: {dropout: 1.5}", "lora.dropout"),
        ("lora: {target_modules: ['--x']}", "is no name"),
        ("training: {optimizer: galore_adamw}", "adamw_torch_fused"),
        ("training: {scheduler: reduce_lr_on_plateau}", "cosine"),
        ("training: {warmup: 1.5}", "neither a whole number of steps nor a share"),
    ],
)
def test_values_that_no_job_could_use_are_refused_by_validate(line: str, says: str, job: Path, dimba: Dimba):
    spec = (job / "job.yaml").read_text(encoding="utf-8")
    kept = [each for each in spec.splitlines() if not each.startswith(line.partition(":")[0])]
    (job / "job.yaml").write_text("\n".join([*kept, line, ""]), encoding="utf-8")
    done = dimba("validate", "job.yaml", cwd=job)
    assert done.returncode == 2 and says in done.stderr, done.stderr


def test_a_custom_trainer_without_the_flag_cannot_mean_other_targets(job: Path, dimba: Dimba):
    (job / "mine.py").write_text(
        "import argparse\np = argparse.ArgumentParser()\n"
        + "".join(f"p.add_argument('{flag}')\n" for flag in ("--model", "--data-path", "--lora-r", "--output-dir"))
        + "p.add_argument('--lora', action='store_true')\np.parse_args()\n",
        encoding="utf-8",
    )
    edit(job, "method: lora", "method: lora\ntrainer: mine.py\nlora: {target_modules: [q_proj]}")
    done = dimba("plan", "job.yaml", cwd=job)
    assert done.returncode == 2 and "lora.target_modules" in done.stderr and "no flag for it" in done.stderr
