"""A run is written as one file, which holds nothing of its machine, and is launched on what the run was trained on."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dimba.commands.pack import compare_run, pack
from dimba.common.contract import DATA_FILE, METRICS_FILE, PLAN_FILE
from dimba.common.errors import BadInput
from dimba.dataset.token_report import DataReport
from dimba.host.provenance import provenance
from dimba.jobs.context import Policy, gather
from dimba.jobs.lifecycle import Options, Run
from dimba.jobs.recipes.difference import Difference
from dimba.jobs.recipes.files import with_files
from dimba.jobs.recipes.launching import check_of_recipe
from dimba.jobs.recorded import recorded_plan
from dimba.jobs.unchanged import made_with
from dimba.records import RunFolder
from dimba.records.record import Attempt
from dimba.runners.registry import find_runner
from dimba.spec import load_spec
from tests.conftest import NO_ENGINE, QUESTIONS, REPOSITORY, SPEC, Dimba, hollow_checkpoint, write_rows
from tests.hub import COMMIT, hub

PROCESS = SPEC + "runner: process\n"


class Silent:
    """A reporter that keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def progress(self, *_: object) -> None: ...

    def ended(self) -> None: ...


def trained(folder: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str, **changes: Any) -> RunFolder:
    """The record of a run of job.yaml as if it had been trained."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DOCKER_HOST", NO_ENGINE["DOCKER_HOST"])
    loaded = load_spec(Path("job.yaml"), overrides)
    context = gather(loaded, find_runner("process"), Policy())
    plan = context.plan()
    made_of = provenance(context.facts, (), lambda *_: None) | made_with(plan, loaded.data)
    run = Run.create(plan, loaded, context.facts, Options(), made_of)
    run.folder.new_attempt()
    lines = [{"step": n, "loss": 3 - n / 10} for n in range(1, 4)]
    (run.folder.attempt(1) / METRICS_FILE).write_text("".join(json.dumps(each) + "\n" for each in lines))
    run.folder.write_json(PLAN_FILE, plan.as_json())
    record = replace(run.record, **recorded_plan(plan)).closed("succeeded", "completed", 0)
    run.folder.write_record(replace(record, **{"learned": True, "git_diff": None, "git_dirty": False, **changes}))
    return run.folder


def packed(run: RunFolder, out: Path, **options: bool) -> Path:
    return pack(run, out, Silent(), **{"with_code": False, **options})  # type: ignore[arg-type]


def differing(run: RunFolder, file: Path) -> dict[str, Difference]:
    return {each.key: each for each in compare_run(run, file, Silent())}  # type: ignore[arg-type]


@pytest.fixture
def simple(job: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    (job / "job.yaml").write_text(PROCESS, encoding="utf-8")
    return trained(job, monkeypatch)


def elsewhere(file: Path, folder: Path, *files: Path) -> Path:
    """The recipe alone in a folder of its own, with `files` beside it."""
    folder.mkdir()
    for each in files:
        (shutil.copytree if each.is_dir() else shutil.copy)(each, folder / each.name)
    return Path(shutil.copy(file, folder / "r.yaml"))


def test_a_recipe_is_a_spec_with_what_the_run_was_made_of(simple: RunFolder, job: Path):
    loaded = load_spec(packed(simple, job / "r.yaml"))
    recipe = loaded.recipe
    assert recipe and recipe.run == simple.id and recipe.data[0].rows == len(QUESTIONS)
    assert recipe.base.hash and recipe.base.hash.startswith("sha256:") and recipe.data[0].hash
    assert recipe.steps.effective_batch == 4 and recipe.steps.total == 3 and recipe.software.packages["torch"]
    assert recipe.figures["loss"]["last"] == 2.7 and recipe.figures["learned"] is True
    assert (loaded.spec.base_checkpoint, loaded.spec.sources["dataset"].path) == ("./base", "data.jsonl")
    assert packed(simple, job / "r.yaml").read_bytes() == (job / "r.yaml").read_bytes(), "the same, packed twice"


def test_defaults_that_decide_the_result_are_written_out(simple: RunFolder, job: Path):
    text = packed(simple, job / "r.yaml").read_text(encoding="utf-8")
    for line in ("learning_rate: 2.0e-4", "seed: 42", "r: 8", "optimizer: "):
        assert line in text, line
    assert "runner: auto" not in text and "report_to" not in text


def test_nothing_of_the_machine_is_in_a_recipe(job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    reward = job / "private" / "score.py"
    reward.parent.mkdir()
    reward.write_text("def score(completions, **_): return [1.0] * len(completions)\n", encoding="utf-8")
    (job / "job.yaml").write_text(
        PROCESS.replace("mode: sft", "mode: grpo")
        .replace("base_checkpoint: base", f"base_checkpoint: {job / 'base'}")
        .replace("output_dir: out", f"output_dir: {job / 'secret-project'}")
        .replace("path: data.jsonl", f"path: {job / 'data.jsonl'}")
        + f"# by lovelace on {os.uname().nodename}\n"
        + f"container: {{env: [PLACE={job}], mounts: ['{job}/extra:/extra:ro']}}\n"
        + f"trainer_args: {{reward: '{reward}:score', num-generations: 2}}\n"
        + "slurm: {account: lab-of-lovelace}\n",
        encoding="utf-8",
    )
    (job / "extra").mkdir()
    run = trained(job, monkeypatch)
    text = packed(run, job / "r.yaml").read_text(encoding="utf-8")
    for private in (str(tmp_path), "/home", os.uname().nodename, "lovelace", str(job)):
        assert private not in text, private
    loaded = load_spec(job / "r.yaml")
    assert (
        loaded.spec.trainer_args["reward"] == "score.py:score"
        and loaded.spec.output_dir == "checkpoints/secret-project"
    )
    assert loaded.recipe and [each.name for each in loaded.recipe.code] == ["score.py"]
    assert loaded.spec.container.env == ["PLACE"] and loaded.spec.container.mounts == ["extra:/extra:ro"]
    assert "def score" not in text and "What is" not in text, "neither code nor rows"


def test_the_date_that_a_chat_template_showed_is_kept(simple: RunFolder, job: Path):
    report = DataReport(
        format="question/answer", columns={}, rows=12, unusable=0, bad=(), tokens=9, trained_tokens=9, max_length=128,
        on_long=None, long_rows=0, cut_tokens=0, cut_trained_tokens=0, left_out=0, examples=12, validation=0, median=1,
        longest=1, lengths=(), shown=(), shown_time="2026-11-28 10:00",
    )  # fmt: skip
    (simple.attempt(1) / DATA_FILE).write_text(json.dumps(report.as_json()), encoding="utf-8")
    file = packed(simple, job / "r.yaml")
    assert load_spec(file).spec.trainer_args == {"template-date": "2026-11-28"} and not differing(simple, file)


@pytest.mark.parametrize("status", ["failed", "stopped", "lost"])
def test_a_run_that_did_not_succeed_has_no_recipe(simple: RunFolder, job: Path, status: str):
    simple.write_record(replace(simple.record(), status=status, exit_reason="trainer_error"))
    with pytest.raises(BadInput, match=rf"{status} \(trainer_error\)") as error:
        packed(simple, job / "r.yaml")
    assert f"dimba resume {simple.id}" in error.value.hint and not (job / "r.yaml").exists()


@pytest.mark.parametrize("what", ["row", "base", "gone", "spec", "reward"])
def test_a_run_whose_files_have_changed_has_no_recipe(job: Path, monkeypatch: pytest.MonkeyPatch, what: str):
    (job / "score.py").write_text("def f(completions, **_): return [1.0]\n", encoding="utf-8")
    (job / "job.yaml").write_text(
        PROCESS.replace("mode: sft", "mode: grpo") + "trainer_args: {reward: 'score.py:f', num-generations: 2}\n"
    )
    run = trained(job, monkeypatch)
    changed = {"row": job / "data.jsonl", "base": job / "base" / "config.json", "reward": job / "score.py"}
    if what == "gone":
        (job / "data.jsonl").unlink()
    else:
        with changed.get(what, run.path / "job.yaml").open("a", encoding="utf-8") as file:
            file.write("\n" if what != "row" else '{"question": "one", "answer": "more"}\n')
    keys = {
        "row": "dataset",
        "base": "base_checkpoint",
        "gone": "dataset",
        "spec": "job.yaml",
        "reward": "trainer_args",
    }
    with pytest.raises(BadInput, match=f"trained on something else:\n  {keys[what]}"):
        packed(run, job / "r.yaml")


def test_overrides_attempts_and_departures_are_in_a_recipe(job: Path, monkeypatch: pytest.MonkeyPatch):
    (job / "job.yaml").write_text(PROCESS, encoding="utf-8")
    departure = {"attempt": 2, "differences": [f"dataset: {job}/data.jsonl has changed"]}
    run = trained(job, monkeypatch, "training.max_steps=2", departures=(departure,))
    attempts = (Attempt(number=1, exit_reason="out_of_memory"), Attempt(number=2, exit_reason="completed"))
    run.write_record(replace(run.record(), attempts=attempts))
    loaded = load_spec(packed(run, job / "r.yaml"))
    assert loaded.spec.training.max_steps == 2 and loaded.recipe
    assert loaded.recipe.notes == [
        "2 attempts: before the last one out_of_memory",
        "continued although changed: dataset: data.jsonl has changed",
    ]


def test_another_file_is_not_overwritten(simple: RunFolder, job: Path):
    with pytest.raises(BadInput, match=r"job\.yaml: exists, and is no recipe of this run"):
        packed(simple, job / "job.yaml")
    with pytest.raises(BadInput, match="is a folder"):
        packed(simple, job)


@pytest.mark.parametrize(
    ("old", "new", "line", "cause"),
    [
        ("seed: 42", "seed: 43", "recipe.seal", "has been edited"),
        ("version: 1\n  run", "version: 2\n  run", "recipe.version", "`2` is a version that this dimba does not read"),
        ("    name: base\n    hash", "    name: base\n    # hash", "recipe.base", "has no `hash`"),
        ("  run: ", "  ran: ", "recipe.run", "required, and not given"),
    ],
)
def test_an_edited_or_unknown_recipe_is_refused_with_its_line(
    simple: RunFolder, job: Path, old: str, new: str, line: str, cause: str
):
    file = packed(simple, job / "r.yaml")
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(BadInput) as error:
        load_spec(file)
    (found,) = [each for each in str(error.value).splitlines() if f": {line}: " in each]
    assert cause in found and found.split(":")[1].isdecimal() and "\nhint: " in str(error.value)


def test_comments_and_layout_are_free(simple: RunFolder, job: Path):
    file = packed(simple, job / "r.yaml")
    file.write_text("# mine\n" + file.read_text(encoding="utf-8").replace("mode: sft", "mode:    'sft'  # so"), "utf-8")
    assert load_spec(file).recipe


def test_files_beside_the_recipe_are_found_and_missing_ones_named(
    simple: RunFolder, job: Path, tmp_path: Path, dimba: Dimba
):
    file = elsewhere(packed(simple, job / "r.yaml"), tmp_path / "there")
    (tmp_path / "empty").mkdir()
    missing = dimba("plan", str(file), cwd=tmp_path / "empty", **NO_ENGINE)
    assert missing.returncode == 2
    assert "base_checkpoint: `./base`, which the recipe needs, is not here (sha256:" in missing.stderr
    assert "12 rows" in missing.stderr and "--set dataset.path=PLACE" in missing.stderr
    for each in ("base", "data.jsonl"):
        (shutil.copytree if each == "base" else shutil.copy)(job / each, file.parent / each)
    found = with_files(load_spec(file), tmp_path / "empty")
    assert (found.spec.base_checkpoint, found.overrides) == (str(file.parent / "base"), ())
    assert found.found[1] == f'dataset.path="{file.parent / "data.jsonl"}"'
    given = with_files(load_spec(file, [f"base_checkpoint={job / 'base'}"]), tmp_path / "empty")
    assert given.spec.base_checkpoint == str(job / "base") and len(given.found) == 1


def other_rows(folder: Path) -> str:
    write_rows(folder / "data.jsonl", [*QUESTIONS[1:], QUESTIONS[0]])
    return "r.yaml:7: dataset: data.jsonl (sha256:"


def changed_base(folder: Path) -> str:
    (folder / "base" / "tokenizer_config.json").write_text('{"chat_template": "y"}', encoding="utf-8")
    return "r.yaml:6: base_checkpoint: base (sha256:"


@pytest.mark.parametrize("change", [other_rows, changed_base])
def test_other_data_or_another_base_are_refused_before_anything_starts(
    simple: RunFolder, job: Path, tmp_path: Path, dimba: Dimba, change: Callable[[Path], str]
):
    file = elsewhere(packed(simple, job / "r.yaml"), tmp_path / "there", job / "base", job / "data.jsonl")
    named = change(file.parent)
    refused = dimba("launch", "r.yaml", "--runner", "process", cwd=file.parent, **NO_ENGINE)
    assert refused.returncode == 2 and not (file.parent / "runs").exists(), refused.stderr
    assert f"r.yaml would train something else:\n  {named}" in refused.stderr and refused.stderr.count("sha256:") == 2
    assert "dimba launch r.yaml --anyway" in refused.stderr


def checked(file: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str, anyway: bool = False) -> dict[str, Any]:
    """The fields that the launch of a recipe adds to the record; raises what it refuses."""
    monkeypatch.chdir(file.parent)
    loaded = with_files(load_spec(file, overrides), Path.cwd())
    context = gather(loaded, find_runner("process"), Policy())
    made_of = provenance(context.facts, (), lambda *_: None) | made_with(context.plan(), loaded.data)
    check = check_of_recipe(context, Silent(), anyway=anyway)  # type: ignore[arg-type]
    assert check
    return check(context.plan(), {**made_of, "git_diff": None})


def test_other_data_are_trained_on_anyway_and_noted(
    simple: RunFolder, job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file = elsewhere(packed(simple, job / "r.yaml"), tmp_path / "there", job / "base", job / "data.jsonl")
    assert not checked(file, monkeypatch, "runner=process")["recipe"]["anyway"]
    other_rows(file.parent)
    noted = checked(file, monkeypatch, "runner=process", anyway=True)["recipe"]
    assert noted["run"] == simple.id and noted["anyway"] and noted["differences"][0]["key"] == "dataset"


def test_a_hyperparameter_of_the_command_line_is_noted_and_not_refused(
    simple: RunFolder, job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file = elsewhere(packed(simple, job / "r.yaml"), tmp_path / "there", job / "base", job / "data.jsonl")
    changes = ("runner=process", "training.learning_rate=1e-3", "training.grad_accumulation_steps=1", "name=mine")
    noted = {each["key"]: each for each in checked(file, monkeypatch, *changes)["recipe"]["differences"]}
    assert noted["training.learning_rate"] | {"is_content": False, "note": ""} == {
        "kind": "changes", "key": "training.learning_rate", "this": "0.001", "that": "0.0002",
        "is_content": False, "note": "",
    }  # fmt: skip
    assert (noted["effective batch"]["this"], noted["effective batch"]["kind"]) == ("2", "changes")
    assert noted["training.grad_accumulation_steps"]["kind"] == "may change"
    assert noted["name"]["kind"] == "does not change"


def test_an_ordinary_spec_takes_no_anyway(simple: RunFolder, job: Path, dimba: Dimba):
    refused = dimba("launch", "job.yaml", "--anyway", cwd=job, **NO_ENGINE)
    assert refused.returncode == 2 and "is no recipe" in refused.stderr
    refused = dimba("launch", "job.yaml", "--anyway", "--sweep", "lora.r=4,8", cwd=job, **NO_ENGINE)
    assert refused.returncode == 2 and "--anyway is of a recipe" in refused.stderr
    packed(simple, job / "r.yaml")
    refused = dimba("launch", "r.yaml", "--sweep", "lora.r=4,8", cwd=job, **NO_ENGINE)
    assert refused.returncode == 2 and "is a recipe, which trains the same as one run" in refused.stderr


DATA = {
    "folder": "{path: own/shards}",
    "pattern": "{path: 'own/shards/*.jsonl'}",
    "list": "[{path: own/shards/a.jsonl}, {path: other/a.jsonl, weight: 2}]",
    "stream": "{path: own/shards, stream: true}",
}


@pytest.mark.parametrize("kind", DATA)
def test_every_kind_of_local_data_is_handed_on(job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str):
    for name, rows in (("own/shards/a", QUESTIONS[:6]), ("own/shards/b", QUESTIONS[6:]), ("other/a", QUESTIONS[:3])):
        write_rows(job / f"{name}.jsonl", rows)
    (job / "job.yaml").write_text(PROCESS.replace("{path: data.jsonl}", DATA[kind]), encoding="utf-8")
    run = trained(job, monkeypatch)
    file = elsewhere(packed(run, job / "r.yaml"), tmp_path / "there", job / "base")
    if kind == "list":
        shutil.copy(job / "own" / "shards" / "a.jsonl", file.parent / "a.jsonl")
        shutil.copy(job / "other" / "a.jsonl", file.parent / "a-2.jsonl")
    else:
        shutil.copytree(job / "own" / "shards", file.parent / "shards")
    assert not checked(file, monkeypatch, "runner=process", anyway=True)["recipe"]["anyway"], "the same contents"
    changed = file.parent / ("a-2.jsonl" if kind == "list" else "shards/b.jsonl")
    write_rows(changed, QUESTIONS[1:4])
    with pytest.raises(BadInput, match="would train something else") as error:
        checked(file, monkeypatch, "runner=process")
    lines = error.value.message.splitlines()
    named = {"list": "dataset[1]: a-2.jsonl (sha256:", "stream": "dataset: shards (blocks:"}
    assert len(lines) == 2 and named.get(kind, "b.jsonl (sha256:") in lines[1], lines


GRPO = PROCESS.replace("mode: sft", "mode: grpo") + "trainer_args: {reward: 'own/score.py:f', num-generations: 2}\n"


def test_code_is_handed_on_by_its_hash_and_its_text_needs_trust(
    job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dimba: Dimba
):
    (job / "own").mkdir()
    code = job / "own" / "score.py"
    code.write_text("def f(completions, **_):\n    return [1.0] * len(completions)\n", encoding="utf-8")
    (job / "job.yaml").write_text(GRPO, encoding="utf-8")
    run = trained(job, monkeypatch)
    alone = elsewhere(packed(run, job / "r.yaml"), tmp_path / "alone", job / "base", job / "data.jsonl")
    missing = dimba("plan", "r.yaml", cwd=alone.parent, **NO_ENGINE)
    assert missing.returncode == 2 and "trainer_args.reward: `score.py`, which the recipe needs" in missing.stderr
    (alone.parent / "score.py").write_text("def f(completions, **_):\n    return [2.0]\n", encoding="utf-8")
    with pytest.raises(BadInput, match=r"trainer_args: score.py \(sha256:"):
        checked(alone, monkeypatch, "runner=process")
    whole = elsewhere(packed(run, job / "r.yaml", with_code=True), tmp_path / "whole", job / "base", job / "data.jsonl")
    assert "return [1.0] * len(completions)" in whole.read_text(encoding="utf-8")
    refused = dimba("launch", "r.yaml", "--runner", "process", cwd=whole.parent, **NO_ENGINE)
    assert refused.returncode == 2 and "the job executes" in refused.stderr and "--trust-spec" in refused.stderr
    differences = checked(whole, monkeypatch, "runner=process")["recipe"]["differences"]
    assert not [each for each in differences if each["is_content"]]


def test_a_local_reward_model_is_compared_too(job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    hollow_checkpoint(job / "own" / "judge")
    text = GRPO.replace("reward: 'own/score.py:f'", "reward: preference, reward-model: ./own/judge")
    (job / "job.yaml").write_text(text, encoding="utf-8")
    write_rows(job / "data.jsonl", [{"prompt": "p", "chosen": "a", "rejected": "b"}] * 12)
    run = trained(job, monkeypatch)
    file = elsewhere(packed(run, job / "r.yaml"), tmp_path / "there", job / "base", job / "data.jsonl")
    with pytest.raises(BadInput, match="`judge`, which the recipe needs, is not here"):
        checked(file, monkeypatch, "runner=process")
    shutil.copytree(job / "own" / "judge", file.parent / "judge")
    assert not checked(file, monkeypatch, "runner=process", anyway=True)["recipe"]["anyway"], "the same contents"
    (file.parent / "judge" / "tokenizer_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(BadInput, match=r"trainer_args: judge \(sha256:"):
        checked(file, monkeypatch, "runner=process")


def test_the_path_of_a_trainer_of_dimba_is_that_in_the_project(job: Path, monkeypatch: pytest.MonkeyPatch):
    trainer = REPOSITORY / "scripts" / "finetuning" / "finetune_sft.py"
    (job / "job.yaml").write_text(f"{PROCESS}trainer: {trainer}\n", encoding="utf-8")
    run = trained(job, monkeypatch)
    assert load_spec(packed(run, job / "r.yaml")).spec.trainer == "scripts/finetuning/finetune_sft.py"
    assert not differing(run, job / "r.yaml")


def test_what_differs_from_a_recipe_is_sorted_by_what_it_does(
    simple: RunFolder, job: Path, monkeypatch: pytest.MonkeyPatch, dimba: Dimba
):
    file = packed(simple, job / "r.yaml")
    assert not differing(simple, file)
    shown = dimba("pack", simple.id, "--same-as", "r.yaml", cwd=job, **NO_ENGINE)
    assert shown.returncode == 0 and shown.stdout == "the same in everything that is compared\n"
    other = trained(job, monkeypatch, "lora.r=4", "output_dir=out-2", "training.seed=8")
    lines = [json.dumps({"step": n, "loss": 9}) for n in range(1, 4)]
    (other.attempt(1) / METRICS_FILE).write_text("\n".join(lines) + "\n")
    found = differing(other, file)
    assert [(each.kind, each.this, each.that) for each in (found["lora.r"], found["training.seed"])] == [
        ("changes", "4", "8"),
        ("changes", "8", "42"),
    ]
    assert found["output_dir"].kind == "does not change"
    assert "outside the ±" in found["loss, mean of the last 3 steps"].note
    table = dimba("plan", "job.yaml", "--same-as", "r.yaml", "--set", "lora.r=4", cwd=job, COLUMNS="80", **NO_ENGINE)
    assert table.returncode == 0 and "changes the result\n" in table.stdout and "lora.r" in table.stdout
    assert max(map(len, table.stdout.splitlines())) <= 80
    value = json.loads(dimba("pack", other.id, "--same-as", "r.yaml", "--json", cwd=job, **NO_ENGINE).stdout)
    assert value["same"] is False and {each["key"] for each in value["differences"]} == set(found)
    plain = dimba("plan", "job.yaml", "--same-as", "job.yaml", cwd=job, **NO_ENGINE)
    assert plain.returncode == 2 and "is a spec without a recipe" in plain.stderr


def test_a_file_and_a_commit_of_the_hub_cannot_be_the_same(
    simple: RunFolder, job: Path, monkeypatch: pytest.MonkeyPatch
):
    file = packed(simple, job / "r.yaml")
    changes = ("dataset.path=null", "dataset.name=tiny/questions", f"dataset.revision={'f' * 40}", "runner=process")
    with pytest.raises(BadInput, match=r"dataset: data.jsonl .*, here tiny/questions \(fff"):
        checked(file, monkeypatch, *changes, "output_dir=out-2")


def test_a_run_on_the_hub_is_packed_with_its_commits(job: Path, monkeypatch: pytest.MonkeyPatch):
    text = PROCESS.replace("base_checkpoint: base", "base_checkpoint: tiny/llama")
    text = text.replace("{path: data.jsonl}", "{name: tiny/questions, config: plain, split: train}")
    (job / "job.yaml").write_text(text, encoding="utf-8")
    run = trained(job, monkeypatch)
    with pytest.raises(BadInput, match="has no hash of its base_checkpoint"):
        packed(run, job / "r.yaml")
    commits = {"models/tiny/llama": "a" * 40, "datasets/tiny/questions": "b" * 40}
    run.write_record(replace(run.record(), commits=commits, base_hash=f"commit:{'a' * 40}"))
    spec = load_spec(packed(run, job / "r.yaml")).spec
    assert (spec.base_checkpoint, spec.base_revision) == ("tiny/llama", "a" * 40)
    assert spec.sources["dataset"].revision == "b" * 40 and spec.sources["dataset"].config == "plain"
    assert not [each for each in checked(job / "r.yaml", monkeypatch, "runner=process")["recipe"]["differences"]
                if each["kind"] == "changes"]  # fmt: skip


def test_a_revision_belongs_to_the_hub(job: Path, dimba: Dimba):
    for change, cause in (
        ("dataset.revision=v1", "`revision` is of a data set on the Hub"),
        ("base_revision=v1", "is a folder on this machine, and `base_revision` is of a base on the Hub"),
    ):
        refused = dimba("plan", "job.yaml", "--set", change, cwd=job, **NO_ENGINE)
        assert refused.returncode == 2 and cause in refused.stderr, refused.stderr


ON_HUB = """\
version: 1
mode: sft
base_checkpoint: tiny/llama
dataset:
  - {name: tiny/questions, split: train}
  - {path: own/rows.jsonl, weight: 2}
method: lora
training: {batch_size: 2, grad_accumulation_steps: 1, max_steps: 3, max_length: 64, seed: 7}
output_dir: out
resources: {gpus: none}
runner: process
"""
ROWS = [{"question": f"What is {n} + 1?", "answer": f"It is {n + 1}."} for n in range(6)]


def losses(folder: Path) -> list[float]:
    (file,) = folder.glob("runs/*/attempts/1/metrics.jsonl")
    lines = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.proof
def test_a_recipe_trains_the_same_to_the_last_bit_elsewhere(tiny_checkpoint: Path, tmp_path: Path, dimba: Dimba):
    here, there = tmp_path / "here", tmp_path / "there"
    base, data, later = tmp_path / "llama", tmp_path / "questions", tmp_path / "later"
    shutil.copytree(tiny_checkpoint, base)
    write_rows(data / "train.jsonl", QUESTIONS)
    write_rows(here / "own" / "rows.jsonl", ROWS)
    (here / "job.yaml").write_text(ON_HUB, encoding="utf-8")
    online = {"HF_HUB_OFFLINE": "0", "no_proxy": "127.0.0.1,localhost"}
    with hub({"tiny/llama": base, "datasets/tiny/questions": data}) as address:
        at = {**online, "HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "cache"), "HOME": str(tmp_path / "home")}
        done = dimba("launch", "job.yaml", cwd=here, **at)
        assert done.returncode == 0, done.stderr
    packed = dimba("pack", "sft-lora", cwd=here, HF_HOME=str(tmp_path / "cache"), HOME=str(tmp_path / "home"))
    assert packed.returncode == 0, packed.stderr
    text = Path(packed.stdout.strip()).read_text(encoding="utf-8")
    assert text.count(COMMIT) == 4 and str(tmp_path) not in text, "base and data, in the spec and in the recipe"
    there.mkdir()
    shutil.move(packed.stdout.strip(), there / "r.yaml")
    shutil.move(here / "own" / "rows.jsonl", there / "rows.jsonl")
    # The newest commit of both is another one now.
    write_rows(later / "train.jsonl", QUESTIONS[:5])
    newest = {"tiny/llama": later, "datasets/tiny/questions": later}
    older = {(name, COMMIT): place for name, place in zip(newest, (base, data), strict=True)}
    with hub(newest, older=older, newest="f" * 40) as address:
        at = {**online, "HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "cache2"), "HOME": str(tmp_path / "home2")}
        again = dimba("launch", "r.yaml", "--runner", "process", "--trust-spec", cwd=there, **at)
    assert again.returncode == 0, again.stderr
    assert "recipe of " in again.stderr and "changes the result" not in again.stderr
    assert losses(there) == losses(here) and len(losses(here)) == 3
    first, second = (json.loads(next(each.glob("runs/*/run.json")).read_text()) for each in (here, there))
    assert first["commits"] == second["commits"] and first["base_hash"] == second["base_hash"] == f"commit:{COMMIT}"
    same = dimba("pack", "sft-lora", "--same-as", "r.yaml", "--json", cwd=there, HF_HOME=at["HF_HOME"], HOME=at["HOME"])
    assert json.loads(same.stdout)["same"] is True, same.stdout + same.stderr
