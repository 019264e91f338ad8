"""The questions about adapter, optimiser and evaluations: each has a flag, and its answer is in the spec."""

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.conftest import QUESTIONS, Dimba, write_rows

GIVEN = {
    "--lora-dropout": ["0.1"],
    "--lora-target-modules": ["q_proj", "v_proj"],
    "--use-dora": ["yes"],
    "--use-rslora": ["no"],
    "--lora-init": ["gaussian"],
    "--scheduler": ["cosine"],
    "--warmup": ["5"],
    "--optimizer": ["adamw_8bit"],
    "--save-best": ["yes"],
    "--early-stop": ["2"],
}


@pytest.fixture
def asked(tiny_checkpoint: Path, tmp_path: Path, dimba: Dimba):
    write_rows(tmp_path / "rows.jsonl", QUESTIONS)

    def ask(*flags: str) -> tuple[int, str, dict[str, Any]]:
        named = ["--mode", "sft", "--base-checkpoint", str(tiny_checkpoint), "--dataset", "./rows.jsonl"]
        where = ["--method", "lora", "--gpus", "none", "--runner", "process", "--out", "job.yaml", "--no-launch"]
        done = dimba("wizard", "--defaults", *named, *where, *flags, cwd=tmp_path)
        written = tmp_path / "job.yaml"
        spec = YAML(typ="safe").load(written.read_text()) if written.exists() else {}
        return done.returncode, done.stderr + done.stdout, spec

    return ask


def test_each_answer_is_in_the_spec_and_defaults_are_not(asked):
    status, output, spec = asked(*(word for flag, values in GIVEN.items() for word in (flag, *values)))
    assert status == 0, output
    lora = {"dropout": 0.1, "target_modules": ["q_proj", "v_proj"], "use_dora": True, "init": "gaussian"}
    assert {name: spec["lora"].get(name) for name in lora} == lora and "use_rslora" not in spec["lora"]
    training = {"scheduler": "cosine", "warmup": 5, "optimizer": "adamw_8bit", "save_best": True, "early_stop": 2}
    assert {name: spec["training"].get(name) for name in training} == training
    assert spec["trainer_args"]["validation-split"] == 0.05


def test_without_them_the_spec_has_no_such_key(asked):
    status, output, spec = asked()
    assert status == 0, output
    assert set(spec["lora"]) == {"r", "alpha"} and "validation-split" not in spec.get("trainer_args", {})
    assert not {"scheduler", "optimizer", "save_best", "early_stop", "report_to"} & set(spec["training"])


def test_a_choice_that_is_none_is_refused_with_the_nearest(asked):
    status, output, _ = asked("--optimizer", "adamw_8bits")
    assert status == 2 and "did you mean `adamw_8bit`?" in output


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--lora-target-modules", "q_prj"), "did you mean `q_proj`?"),
        (("--lora-target-modules", "q_proj,v_proj"), "several names are a list"),
        (("--lora-modules-to-save", "score"), "no module of the base is named `score`"),
        (("--lora-dropout", "1.5"), "give a number from 0 to 0.99"),
    ],
)
def test_a_value_that_the_base_or_the_bounds_do_not_allow_is_refused_at_its_question(asked, flags, says: str):
    status, output, spec = asked(*flags)
    assert status == 2 and says in " ".join(output.split()) and not spec
