"""Tasks by lm-eval itself: what is found, what is refused, and what a model achieves, beside lm-eval's own model."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from dimba.common.errors import BadInput, DimbaError
from dimba.common.tasks import TaskRequest
from tests.conftest import REPOSITORY, write_rows
from tests.hub import at, hub

pytest.importorskip("lm_eval", reason="`make test-fast` installs docker/eval/requirements.txt")

HEAD = "dataset_path: json\ndataset_kwargs: {data_files: {test: rows.jsonl}}\ntest_split: test\n"
CHOICE = "output_type: multiple_choice\ndoc_to_text: '{{question}}'\ndoc_to_choice: choices\ndoc_to_target: 1\n"
WRITTEN = "output_type: generate_until\ndoc_to_text: '{{question}}'\ndoc_to_target: text\n"
ALONE = "output_type: loglikelihood\ndoc_to_text: '{{question}}'\ndoc_to_target: ' {{text}}'\n"
WHOLE = "output_type: loglikelihood_rolling\ndoc_to_text: ''\ndoc_to_target: text\n"
EXACT = "metric_list: [{metric: exact_match}]\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [
        {"question": f"What is {n} + {n}?", "choices": [f"No, {n}.", f"It is {2 * n}."], "text": f"It is {2 * n}."}
        for n in range(12)
    ]
    write_rows(tmp_path / "rows.jsonl", rows)
    return tmp_path


@pytest.fixture(autouse=True)
def _trust_again() -> Iterator[None]:
    yield
    from dimba.trainers.tasks.guards import guard

    guard(trusts_code=True)


def task_file(folder: Path, text: str, name: str = "mine") -> str:
    file = folder / f"{name}.yaml"
    file.write_text(f"task: {name}\n{text}", encoding="utf-8")
    return str(file)


def find(*names: str, **how: Any) -> Any:
    from dimba.trainers.tasks.find import find_tasks

    return find_tasks(TaskRequest(names=names, **how))


def test_code_that_a_task_names_never_runs_without_trust(folder: Path):
    (folder / "code.py").write_text("from pathlib import Path\nPath(__file__).with_name('ran').touch()\ntext = str\n")
    for function in ("code.text", "os.system"):
        file = task_file(folder, f"{HEAD}{WRITTEN}{EXACT}process_docs: !function {function}\n")
        with pytest.raises(BadInput, match=f"names Python code, `!function {function}`") as caught:
            find(file)
        assert "--trust-task-code" in caught.value.hint
    assert not (folder / "ran").exists()
    text = WRITTEN.replace("'{{question}}'", "!function code.text")
    find(task_file(folder, HEAD + text + EXACT), trusts_code=True)
    assert (folder / "ran").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (HEAD + WRITTEN.replace("question", "().__class__.__base__") + EXACT, "SecurityError"),
        (HEAD + WRITTEN.replace("question", "questoin") + EXACT, "'questoin' is undefined"),
        (HEAD.replace("json\n", "pandas\n", 1) + WRITTEN + EXACT, "as `pandas`, which can run code"),
        (HEAD + WRITTEN + "unsafe_code: true\n" + EXACT, "runs the code that the model writes"),
        (HEAD + WRITTEN + "doc_to_image: [text]\n" + EXACT, "needs images or sound"),
        (HEAD + WRITTEN.replace("generate_until", "winogrande") + EXACT, "invalid output_type"),
        (
            HEAD + WRITTEN + "metric_list: [{metric: a/b, aggregation: mean, higher_is_better: true}]\n",
            "`a/b` is none of lm-eval's own",
        ),
        (HEAD + WRITTEN + "metric_list: [{metric: exact_mach}]\n", "`exact_mach` is none of lm-eval's own"),
        (HEAD.replace("test_split: test", "") + WRITTEN + EXACT, "must have valid or test docs"),
    ],
)
def test_a_task_that_cannot_be_run_here_is_refused_with_the_reason(folder: Path, text: str, words: str):
    with pytest.raises(DimbaError, match=words):
        find(task_file(folder, text))


def test_a_metric_without_a_direction_is_refused_and_one_with_values_of_documents_comes_first(folder: Path):
    from dimba.trainers.tasks.metrics import choose_metric

    both = "metric_list: [{metric: bleu}, {metric: exact_match}]\n"
    task = find(task_file(folder, HEAD + WRITTEN + both)).tasks["mine"]
    assert choose_metric(task, "mine").name == "exact_match"
    bleu = find(task_file(folder, f"{HEAD}{WRITTEN}metric_list: [{{metric: bleu}}]\n")).tasks["mine"]
    assert choose_metric(bleu, "mine").value is None
    task._higher_is_better = {}
    with pytest.raises(BadInput, match="does not say whether more of its metric `exact_match` is better"):
        choose_metric(task, "mine")


def test_a_group_in_a_file_stands_for_the_tasks_of_the_files_beside_it(folder: Path):
    first, second = task_file(folder, HEAD + CHOICE, "one"), task_file(folder, HEAD + CHOICE, "two")
    (folder / "all.yaml").write_text(
        "group: all\ntask: [one, two]\naggregate_metric_list: [{metric: acc, weight_by_size: false}]\n"
    )
    found = find(str(folder / "all.yaml"))
    assert [(each.name, each.tasks, each.by_size) for each in found.named] == [("all", ("one", "two"), False)]
    assert [each.name for each in find(first, second).named] == ["one", "two"]
    Path(second).write_text(Path(second).read_text(encoding="utf-8").replace("task: two", "task: one"))
    with pytest.raises(BadInput, match="two tasks are named `one`"):
        find(first, second)


@pytest.mark.proof
def test_a_task_that_does_not_exist_is_refused_with_those_of_a_similar_name(tiny_checkpoint: Path):
    lines = look({"names": ["arc_eazy"]}, tiny_checkpoint)
    assert lines[-1]["error"]["cause"] == "lm-eval has no task `arc_eazy`"
    assert "`arc_easy`" in lines[-1]["error"]["hint"]


def look(request: dict[str, Any], model: Path) -> list[dict[str, Any]]:
    asked = json.dumps({"tasks": request, "model": {"folder": str(model)}})
    command = [sys.executable, "-m", "dimba.trainers.tasks", asked]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=False)
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.mark.proof
def test_documents_are_reported_with_question_and_answer_and_a_prompt_that_fails_is_refused(
    folder: Path, tiny_checkpoint: Path
):
    lines = look({"names": [task_file(folder, HEAD + CHOICE)], "limit": 10}, tiny_checkpoint)
    documents = [each["document"] for each in lines if "document" in each]
    assert len(documents) == 10 and documents[3]["question"] == "What is 3 + 3?"
    assert documents[3]["answer"] == "It is 6."
    facts = next(each["task"] for each in lines if "task" in each)
    assert (facts["metric"], facts["documents"], facts["higher_is_better"]) == ("acc", 10, True)
    assert lines[-1]["done"].startswith("0.")
    many = look({"names": [task_file(folder, HEAD + CHOICE)], "fewshot": 50}, tiny_checkpoint)
    assert "the prompts of the task `mine` fail" in many[-1]["error"]["cause"]


def speaker(model: Path) -> Any:
    from dimba.trainers.inference.loading import load_speakers

    [found] = load_speakers({"models": [{"folder": str(model)}]}, lambda _: None)
    return found


def measured(one: Any, files: Sequence[str], *, chat: bool) -> dict[str, Any]:
    from dimba.trainers.tasks.measure import measure

    request = TaskRequest(names=tuple(files), chat=chat, batch_size=5)
    return {each.name: each for each in measure(one, find(*files), request, lambda *_: None)}


@pytest.mark.proof
@pytest.mark.parametrize("chat", [True, False])
def test_the_figures_are_those_of_lm_evals_own_model_of_transformers(folder: Path, tiny_checkpoint: Path, chat: bool):
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from dimba.trainers.tasks.find import configure

    stops = "generation_kwargs: {until: [e, '+'], max_gen_toks: 8}\n"
    files = [
        task_file(folder, HEAD + CHOICE, "choice"),
        task_file(folder, HEAD + WHOLE, "whole"),
        task_file(folder, HEAD + ALONE, "alone"),
        task_file(folder, HEAD + WRITTEN + stops + EXACT, "written"),
    ]
    ours = measured(speaker(tiny_checkpoint), files, chat=chat)
    model = AutoModelForCausalLM.from_pretrained(tiny_checkpoint)
    theirs = HFLM(pretrained=model, tokenizer=AutoTokenizer.from_pretrained(tiny_checkpoint), batch_size=5)
    for name, task in find(*files).tasks.items():
        configure(task, TaskRequest(names=()))
        found: Any = evaluate(theirs, {"tasks": {name: task}}, bootstrap_iters=0, apply_chat_template=chat)
        for key, value in ours[name].figures.items():
            assert value == pytest.approx(float(found["results"][name][key]), rel=1e-4), (name, key)
        assert len(ours[name].values) == 12 and not ours[name].cut


def test_prompts_that_the_context_has_no_room_for_are_counted(folder: Path, tiny_checkpoint: Path):
    one = speaker(tiny_checkpoint)
    one.base.config.max_position_embeddings = 12
    found = measured(one, [task_file(folder, HEAD + CHOICE)], chat=True)["mine"]
    assert found.requests == 24 and found.cut == 24


@pytest.mark.proof
def test_data_of_the_hub_are_fetched_once_and_private_ones_without_a_token_are_refused(
    folder: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "hub").mkdir()
    (folder / "rows.jsonl").rename(tmp_path / "hub" / "test.jsonl")
    request = {"names": [task_file(folder, "dataset_path: owner/rows\ntest_split: test\n" + CHOICE)]}
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    with hub({"datasets/owner/rows": tmp_path / "hub"}, private=["datasets/owner/rows"]) as address:
        at(address, monkeypatch)
        [error] = (each["error"] for each in look(request, tiny_checkpoint) if "error" in each)
    assert "cannot be fetched" in error["cause"] and "HF_TOKEN" in error["hint"]
    with hub({"datasets/owner/rows": tmp_path / "hub"}) as address:
        at(address, monkeypatch)
        assert "done" in look(request, tiny_checkpoint)[-1]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "done" in look(request, tiny_checkpoint)[-1], "the cache has them"
    missing = look({"names": ["arc_easy"]}, tiny_checkpoint)[-1]["error"]
    assert "the data of the task `arc_easy` cannot be fetched" in missing["cause"] and missing["status"] == 3
