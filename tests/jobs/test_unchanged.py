"""A run is resumed with what it began with, or not at all."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dimba.host.script_hash import script_hash
from dimba.jobs.unchanged import differences, made_with, present, refuse, uncompared
from dimba.plan.build import make_plan
from dimba.records import RunRecord
from dimba.spec import parse_spec
from tests.conftest import QUESTIONS, Dimba, hollow_checkpoint, write_rows
from tests.jobs.test_output_owner import SPEC
from tests.plan.test_plan import FACTS, SPARSE

PLAN = make_plan(parse_spec(SPARSE.encode(), source="job.yaml").spec, FACTS)
NOW = {
    "base_hash": "sha256:base",
    "data_hash": "sha256:data",
    "trainer_hash": "sha256:trainer",
    "lock_hash": "lock",
    "files": {"/work/reward.py": "sha256:reward"},
    **made_with(PLAN, b"spec"),
}


def record(**changes: Any) -> RunRecord:
    image = PLAN.image.reference if PLAN.image else None
    return RunRecord(id="run-1", name="run", **{"image": image, **NOW, **changes})


def test_an_unchanged_run_has_no_differences():
    assert differences(record(), {}, PLAN, NOW) == []


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"base_hash": "sha256:other"}, "base_checkpoint"),
        ({"base_hash": "commit:other"}, "base_checkpoint"),
        ({"data_hash": "sha256:other"}, "dataset"),
        ({"trainer_hash": "sha256:other"}, "trainer"),
        ({"files": {"/work/reward.py": "sha256:other"}}, "trainer_args"),
        ({"files": {"/work/reward.py": "sha256:reward", "/work/gone.py": "sha256:x"}}, "trainer_args"),
        ({"spec_hash": "sha256:other"}, "job.yaml"),
        ({"effective_batch": 1}, "training.batch_size"),
    ],
)
def test_each_change_is_named(changes: dict[str, Any], key: str):
    (found,) = differences(record(**changes), {}, PLAN, NOW)
    assert found.key == key
    assert key in refuse("run-1", [found]).message and "--anyway" in refuse("run-1", [found]).hint


def test_a_base_that_is_gone_is_no_model_of_the_hub():
    plan = replace(PLAN, checkpoint=replace(PLAN.checkpoint, local=False, reference="org/base"))
    before = {"checkpoint": {"local": True, "reference": "/work/org/base"}}
    (found,) = differences(record(), before, plan, {**NOW, "base_hash": None})
    assert str(found) == "base_checkpoint: /work/org/base is gone; it now names a model on the Hub"


def test_other_software_is_named():
    bare, now = replace(PLAN, image=None), {**NOW, "packages": {"torch": "2.0"}}
    old = record(image=None, packages={"torch": "1.0", "trl": "1.0"})
    assert [each.text for each in differences(old, {}, bare, now)] == ["torch 1.0, now 2.0", "trl 1.0, now none"]
    assert differences(record(image="dimba:1"), {}, bare, now)[0].key == "runner"
    if PLAN.image:
        assert differences(record(image="dimba:gone"), {}, PLAN, NOW)[0].key == "container"
        named = replace(PLAN, image=replace(PLAN.image, key=None, id="sha256:new"))
        assert differences(record(image_digest="sha256:old"), {}, named, NOW)[0].key == "container.image"
        built = replace(PLAN, image=replace(PLAN.image, key="recipe", id="sha256:new"))
        assert not differences(record(image_digest="sha256:old"), {}, built, NOW), "the same recipe, built again"


def test_an_older_record_is_resumed_and_what_it_lacks_is_reported():
    old = RunRecord(id="run-1", name="run", base_hash="sha256:base")
    assert differences(old, {}, replace(PLAN, image=None), NOW) == []
    assert uncompared(old, NOW) == ["not compared with the start of the run, whose record lacks it: dataset"]
    assert differences(old, {"steps": {"effective_batch": 3}}, replace(PLAN, image=None), NOW)[0].text.startswith(
        "the effective batch was 3"
    )


def test_a_repository_of_the_hub_is_compared_by_its_newest_commit(monkeypatch: pytest.MonkeyPatch):
    plan = replace(PLAN, data=replace(PLAN.data, local=False, reference="org/rows"))
    old, now = record(data_hash="commit:a"), {**NOW, "data_hash": None}
    answers = {"org/rows": "a"}
    monkeypatch.setattr("dimba.jobs.unchanged.commit_of", lambda _kind, id, revision: revision or answers.get(id))
    assert not differences(old, {}, plan, present(old, plan, now))
    answers["org/rows"] = "b"
    assert [each.key for each in differences(old, {}, plan, present(old, plan, now))] == ["dataset"]
    answers.clear()
    assert not differences(old, {}, plan, present(old, plan, now))
    assert "cannot be read now: dataset" in uncompared(old, present(old, plan, now))[0]
    answers["org/rows"] = "b"
    pinned = replace(plan, data=replace(plan.data, revision="a"))
    assert not differences(old, {}, pinned, present(old, pinned, now)), "a later commit is of no account"


def test_a_script_is_known_with_the_modules_that_it_imports(tmp_path: Path):
    (tmp_path / "train.py").write_text("import helper\nfrom parts import more\nimport json\n")
    (tmp_path / "helper.py").write_text("import train\nx = 1\n")
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "__init__.py").write_text("")
    (tmp_path / "parts" / "more.py").write_text("y = 1\n")
    before = script_hash(tmp_path / "train.py")
    (tmp_path / "unrelated.py").write_text("z = 1\n")
    assert script_hash(tmp_path / "train.py") == before
    for name in ("helper.py", "parts/more.py", "parts/__init__.py", "train.py"):
        (tmp_path / name).write_text("changed = 1\n" + (tmp_path / name).read_text())
        assert script_hash(tmp_path / "train.py") not in {before, None}
        before = script_hash(tmp_path / "train.py")
    assert script_hash(tmp_path / "none.py") is None


@pytest.mark.proof
def test_resume_refuses_other_rows_and_continues_with_anyway(tmp_path: Path, dimba: Dimba):
    hollow_checkpoint(tmp_path / "base")
    write_rows(tmp_path / "data.jsonl", QUESTIONS)
    flags = ("--model", "--dataset", "--output-dir", "--resume-from-checkpoint")
    (tmp_path / "trainer.py").write_text(
        f"import argparse, pathlib, sys\np = argparse.ArgumentParser()\n"
        f"for each in {flags}: p.add_argument(each)\np.parse_args()\n"
        "sys.exit(0 if pathlib.Path('/proc/self/environ').read_bytes().count(b'DIMBA_RESUME_ANYWAY=1') else 1)\n"
    )
    (tmp_path / "job.yaml").write_text(SPEC)
    assert dimba("launch", "--trust-spec", "job.yaml", cwd=tmp_path).returncode == 1
    (run,) = (tmp_path / "runs").iterdir()
    with (tmp_path / "data.jsonl").open("a", encoding="utf-8") as rows:
        rows.write('{"question": "one more", "answer": "row"}\n')
    refused = dimba("resume", run.name, "--trust-spec", cwd=tmp_path)
    assert refused.returncode == 2, refused.stderr
    assert "dataset:" in refused.stderr and "12 rows, now 13" in refused.stderr and "--anyway" in refused.stderr
    assert dimba("resume", run.name, "--trust-spec", "--detach", cwd=tmp_path).returncode == 2
    done = dimba("resume", run.name, "--trust-spec", "--anyway", cwd=tmp_path)
    assert done.returncode == 0 and "continuing all the same (--anyway): dataset:" in done.stderr, done.stderr
    written = json.loads((run / "run.json").read_text())
    (departure,) = written["departures"]
    assert departure["attempt"] == 2 and departure["differences"][0].startswith("dataset: ")
