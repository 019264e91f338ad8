"""`dimba eval` as a user runs it, with real models in a process."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.commands.eval.test_judge import judge_server
from tests.conftest import QUESTIONS, REPOSITORY, Dimba, write_rows

pytestmark = pytest.mark.proof
ON_CPU = ("--runner", "process", "--gpus", "none")
HELD_OUT = 12


def question(n: int) -> dict[str, str]:
    """A row of training data, or of a test set beyond its numbers."""
    return {"prompt": f"What is {n} + {n}?", "response": f"It is {n + n}."}


def launch(folder: Path, base: Path, name: str) -> None:
    spec = {
        "version": 1,
        "name": name,
        "mode": "sft",
        "base_checkpoint": str(base),
        "dataset": {"path": "data.jsonl"},
        "method": "lora",
        "training": {"batch_size": 4, "max_steps": 12, "max_length": 128, "learning_rate": 0.01},
        "trainer_args": {"validation-split": HELD_OUT},
        "output_dir": name,
        "resources": {"gpus": "none"},
        "runner": "process",
    }
    (folder / f"{name}.yaml").write_text(json.dumps(spec), encoding="utf-8")
    command = [sys.executable, "-m", "dimba", "launch", f"{name}.yaml"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Path:
    """A folder with the run `good`, `bad` with its adapter turned round, and rows that look like its data."""
    folder = tmp_path_factory.mktemp("eval")
    write_rows(folder / "data.jsonl", [question(n) for n in range(44)])
    launch(folder, tiny_checkpoint, "good")
    shutil.copytree(folder / "good", folder / "bad", ignore=shutil.ignore_patterns("checkpoint-*"))
    weights = load_file(folder / "good" / "adapter_model.safetensors")
    turned = {name: -2 * value if "lora_B" in name else value for name, value in weights.items()}
    save_file(turned, folder / "bad" / "adapter_model.safetensors", metadata={"format": "pt"})
    write_rows(folder / "others.jsonl", [question(n) for n in range(50, 80)])
    write_tasks(folder)
    return folder


def write_tasks(folder: Path) -> None:
    """The task `knows`: the answers of training or what the base prefers; and `writes`: how likely the answers are."""
    (folder / "tasks").mkdir()
    rows = [question(n) | {"choices": [f"What is {2 * n}.", f"It is {2 * n}."]} for n in range(40, 80)]
    write_rows(folder / "known.jsonl", rows)
    data = "dataset_path: json\ndataset_kwargs: {data_files: {test: ../known.jsonl}}\ntest_split: test\n"
    choice = "output_type: multiple_choice\ndoc_to_choice: choices\ndoc_to_target: 1\nmetric_list: [{metric: acc}]\n"
    text = "output_type: loglikelihood\ndoc_to_target: response\nmetric_list: [{metric: perplexity}]\n"
    for name, kind in (("knows", choice), ("writes", text)):
        task = f"task: {name}\ndoc_to_text: '{{{{prompt}}}}'\n{data}{kind}"
        (folder / "tasks" / f"{name}.yaml").write_text(task, encoding="utf-8")


def test_a_run_is_compared_with_its_base_on_the_rows_that_it_held_out(runs: Path, new_dimba: Dimba):
    done = new_dimba("eval", "good", *ON_CPU, cwd=runs)
    assert done.returncode == 0, done.stderr
    first, *_ = done.stdout.splitlines()
    assert first.startswith("better than its base: loss ") and first.endswith(f"on {HELD_OUT} rows")
    assert all(len(line) <= 80 for line in done.stdout.splitlines())
    found = json.loads((runs / "good" / "eval.json").read_text(encoding="utf-8"))
    assert found["better"] is True and found["held_out"] is True
    metrics = next(runs.glob("runs/good-*/attempts/1/metrics.jsonl")).read_text(encoding="utf-8").splitlines()
    losses = [value["eval_loss"] for line in metrics if "eval_loss" in (value := json.loads(line))]
    assert found["measures"]["loss"]["per_token"]["model"] == pytest.approx(losses[-1], rel=1e-4), "as training"


def test_a_model_that_training_made_worse_says_so_first(runs: Path, new_dimba: Dimba):
    done = new_dimba("eval", "bad", "--file", "others.jsonl", "--guard", *ON_CPU, cwd=runs)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("not better than its base: it is worse, loss ")
    assert "bad has lost on general rows: their loss rose by " in done.stderr


def test_several_models_are_ranked_against_the_base(runs: Path, new_dimba: Dimba):
    done = new_dimba("eval", "bad", "good", "--file", "others.jsonl", *ON_CPU, "--json", cwd=runs)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [each["name"].split("-")[0] for each in found["ranking"]] == ["good", "bad"]
    assert found["ranking"][1]["better"] is False and found["rows"] == 30


def test_rows_that_were_trained_are_counted_and_left_out_of_the_claim(runs: Path, new_dimba: Dimba, tmp_path: Path):
    spaced = [{"prompt": f"  what is {n}  + {n}", "response": f"It is {n + n}"} for n in range(5)]
    rows = write_rows(tmp_path / "rows.jsonl", [*spaced, *(question(n) for n in range(50, 70))])
    done = new_dimba("eval", "good", "--file", str(rows), *ON_CPU, cwd=runs)
    assert done.returncode == 0, done.stderr
    assert "on 20 rows" in done.stdout.splitlines()[0]
    assert "5 rows stand in the training data (5 to the letter, 0 nearly) and are left out" in done.stderr
    overlap = json.loads((runs / "good" / "eval.json").read_text(encoding="utf-8"))["overlap"]
    assert (overlap["rows"], overlap["training_rows"]) == (5, 44)
    assert overlap["places"][1]["training"].endswith("data.jsonl:2")
    kept = new_dimba("eval", "good", "--file", str(rows), "--keep-overlap", *ON_CPU, "--json", cwd=runs)
    assert json.loads(kept.stdout)["rows"] == 25


def test_answers_are_compared_by_rewards_and_by_a_judge(runs: Path, new_dimba: Dimba):
    ask = ("eval", "good", "--file", "others.jsonl", "--reward", "contains:It", "--max-new-tokens", "8")
    with judge_server(lambda one, other: "A" if one.count("It") > other.count("It") else "B") as judge:
        how = ("--judge", judge.url, "--judge-model", "m")
        done = new_dimba(*ask, *how, *ON_CPU, "--json", cwd=runs)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert list(found["measures"]) == ["loss", "contains", "judge"] and found["by"] == "judge"
    wins = found["measures"]["judge"]["wins"]
    assert wins["wins"] + wins["ties"] + wins["losses"] == 30
    assert found["measures"]["contains"]["wins"]["wins"] == wins["wins"]


def test_tasks_say_whether_a_run_knows_the_answers_of_which_some_were_trained(runs: Path, new_dimba: Dimba):
    done = new_dimba("eval", "good", "bad", "--tasks", "tasks/writes.yaml,./tasks/knows.yaml", *ON_CPU, cwd=runs)
    assert done.returncode == 0, done.stderr
    assert ": better than the base: knows acc 1 against 0 on 36 rows" in done.stdout.splitlines()[0]
    assert all(len(line) <= 80 for line in done.stdout.splitlines()[1:])
    assert (
        "8 documents of the tasks stand in the training data (8 to the letter, 0 nearly) and are left out"
        in done.stderr
    )
    good, bad = (json.loads((runs / name / "eval.json").read_text(encoding="utf-8")) for name in ("good", "bad"))
    assert [measure["better"] for measure in good["measures"].values()] == [True, True]
    assert good["measures"]["knows acc"]["wins"]["wins"] == 36 and good["by"] == "knows acc"
    assert good["tasks"]["prompts"] == "chat" and good["rows"] == 36
    assert bad["better"] is None and bad["measures"]["writes log perplexity"]["better"] is False


def test_a_model_that_training_made_worse_is_not_better_in_a_task(runs: Path, new_dimba: Dimba):
    done = new_dimba("eval", "bad", "--tasks", "tasks/writes.yaml", "--limit", "30", *ON_CPU, cwd=runs)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("not better than its base: it is worse, writes log perplexity ")


def test_a_copy_of_the_base_is_not_better_than_it(tiny_checkpoint: Path, tmp_path: Path, new_dimba: Dimba):
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", str(tiny_checkpoint), str(copy)], check=True)
    rows = write_rows(tmp_path / "rows.jsonl", QUESTIONS * 2)
    ask = ("eval", str(copy), "--against", str(tiny_checkpoint), "--file", str(rows), "--json")
    done = new_dimba(*ask, "--columns", "prompt=question", "response=answer", *ON_CPU, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["better"] is None and found["verdict"].startswith("not better than ")


def test_bad_input_is_refused_before_a_model_is_loaded(
    runs: Path, tiny_checkpoint: Path, tmp_path: Path, new_dimba: Dimba
):
    few = write_rows(tmp_path / "few.jsonl", QUESTIONS[:3])
    for ask, words in (
        (("good", "--file", str(few)), "3 usable rows"),
        ((str(tiny_checkpoint), "--file", str(few)), "does not name its base"),
        ((str(tiny_checkpoint), "--against", "good"), "was not trained by a run that is on record here"),
        (("good", "--file", "missing.jsonl"), "missing.jsonl: does not exist"),
        (("good", "--file", "data.jsonl"), "0 usable rows"),
        (("good", "good"), "is named twice"),
        (("good", "--tasks", "tasks/none.yaml"), "none.yaml does not exist"),
        (
            ("good", "--tasks", "tasks/knows.yaml", "--limit", "12"),
            "8 documents of `knows` outside of the training",
        ),
        (("good", "--fewshot", "1"), "are for tasks"),
        (("good", "--file", "others.jsonl", "--reward", "exact"), "there is no reward `exact`"),
        (("good", "--file", "others.jsonl", "--reward", "mine.py:f"), "is not for answers of `dimba eval`"),
        (("good", "--file", "others.jsonl", "--reward-model", "runs"), "holds no reward model"),
        (("good", "--file", "others.jsonl", "--judge", "http://127.0.0.1:9/v1"), "names no model"),
        (
            ("good", "--file", "others.jsonl", "--judge", "http://127.0.0.1:9/v1", "--judge-model", "m"),
            "the judge does not answer",
        ),
    ):
        done = new_dimba("eval", *ask, *ON_CPU, cwd=runs)
        assert done.returncode == 2, done.stderr
        assert words in done.stderr and "hint: " in done.stderr
