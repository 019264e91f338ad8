"""Local files of tasks, as the host reads them before anything is loaded."""

from pathlib import Path

import pytest

from dimba.cli import main
from dimba.commands.eval.task_files import find_task_files
from dimba.common.errors import BadInput

TASK = "task: mine\ndataset_path: json\ndataset_kwargs: {data_files: {test: ../rows.jsonl}}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tasks").mkdir()
    (tmp_path / "rows.jsonl").write_text('{"question": "Why?"}\n', encoding="utf-8")
    (tmp_path / "tasks" / "mine.yaml").write_text(TASK, encoding="utf-8")
    return tmp_path


def test_a_task_file_is_read_with_its_data_from_its_own_place(folder: Path):
    found = find_task_files(["tasks/mine.yaml"], trusts_code=False)
    assert found.names == (str(folder / "tasks" / "mine.yaml"),) and found.is_local
    assert set(found.places) == {folder / "tasks" / "mine.yaml", folder / "rows.jsonl"}


def test_a_folder_stands_for_its_task_files_and_names_for_tasks_of_lm_eval(folder: Path):
    (folder / "tasks" / "other.yaml").write_text("version: 1\nmode: sft\n", encoding="utf-8")
    found = find_task_files(["./tasks", "arc_easy"], trusts_code=False)
    assert found.names == (str(folder / "tasks" / "mine.yaml"), "arc_easy")
    assert not found.is_local, "its data are on the Hub"


def test_data_of_the_hub_and_of_an_address_need_the_network(folder: Path):
    for source in ("dataset_path: owner/rows", "dataset_path: json\ndataset_kwargs: {data_files: 'https://host/x'}"):
        (folder / "tasks" / "mine.yaml").write_text(f"task: mine\n{source}\n", encoding="utf-8")
        assert not find_task_files(["./tasks"], trusts_code=False).is_local


def test_files_that_a_task_includes_and_the_tasks_of_a_group_are_read_too(folder: Path):
    (folder / "base.yaml").write_text(TASK.replace("../rows", "../rows"), encoding="utf-8")
    (folder / "tasks" / "mine.yaml").write_text("include: ../base.yaml\ntask: mine\n", encoding="utf-8")
    (folder / "tasks" / "all.yaml").write_text("group: all\ntask: [mine]\n", encoding="utf-8")
    found = find_task_files(["tasks/all.yaml"], trusts_code=False)
    assert found.is_local and {folder / "base.yaml", folder / "rows.jsonl"} <= set(found.places)
    (folder / "tasks" / "all.yaml").write_text("group: all\ntask: [mine, arc_easy]\n", encoding="utf-8")
    assert not find_task_files(["tasks/all.yaml"], trusts_code=False).is_local


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("task: mine\ndoc_to_text: !function mine.text\n", r"mine\.yaml:2: names Python code, `!function mine\.text`"),
        ("task: mine\ninclude: other.yaml\n", r"mine\.yaml:2: includes other\.yaml, which does not exist"),
        ("task: mine\ninclude: mine.yaml\n", r"includes mine\.yaml, which includes it"),
        ("task: mine\ndataset_path: json\ndataset_kwargs: {data_files: no.jsonl}\n", "reads no.jsonl, which does not"),
        ("dataset_path: json\n", "it has no key `task`"),
        ("- task\n", "it has no keys"),
        ("task: a\n\tb: 1\n", r"mine\.yaml:2: not valid YAML"),
        ("task: &a [*a]\nx: !function os.system\n", "names Python code"),
    ],
)
def test_a_file_that_cannot_be_run_as_it_is_names_its_line_and_the_reason(folder: Path, text: str, words: str):
    (folder / "tasks" / "mine.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(BadInput, match=words):
        find_task_files(["tasks/mine.yaml"], trusts_code=False)


def test_code_of_a_task_that_is_trusted_is_read_from_its_folder(folder: Path):
    (folder / "tasks" / "mine.yaml").write_text(f"{TASK}doc_to_text: !function mine.text\n", encoding="utf-8")
    assert folder / "tasks" in find_task_files(["tasks/mine.yaml"], trusts_code=True).places


def test_a_path_without_a_task_and_a_task_that_is_named_twice_are_refused(folder: Path):
    for given, words in (
        (["./nothing.yaml"], "does not exist"),
        (["./tasks", "tasks/mine.yaml"], "is named twice"),
        (["arc_easy", "arc_easy"], "is named twice"),
        (["."], "has no task file"),
    ):
        with pytest.raises(BadInput, match=words):
            find_task_files(given, trusts_code=False)


def test_a_broken_file_of_a_folder_is_refused_and_not_left_out(folder: Path):
    (folder / "tasks" / "second.yaml").write_text("task: [\n", encoding="utf-8")
    with pytest.raises(BadInput, match="not valid YAML") as refused:
        find_task_files(["./tasks"], trusts_code=False)
    assert "second.yaml" in str(refused.value)


@pytest.mark.parametrize("given", ["", "arc_easy,", ",arc_easy"])
def test_an_empty_name_of_a_task_is_refused_rather_than_no_task_measured(
    folder: Path, capsys: pytest.CaptureFixture[str], given: str
):
    assert main(["eval", "run", "--tasks", given]) == 2
    assert "a name is empty" in capsys.readouterr().err
