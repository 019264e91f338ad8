"""Talking to models from the host: which model, the file of answers, and the turns of a chat."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from dimba.commands.talk.chat import Chat
from dimba.commands.talk.files import FileWork
from dimba.commands.talk.request import TalkRequest
from dimba.commands.talk.rows import AnswerFile, rows_of
from dimba.common.errors import BadInput
from dimba.common.inference import LENGTH, Answer, Prompt, Sampling
from dimba.jobs.model_source import ModelRequest, find_model
from tests.conftest import hollow_checkpoint, write_rows

QUESTIONS = [{"question": f"What is {n} + {n}?", "answer": str(n + n)} for n in range(7)]


class Session:
    """Answers each prompt with its last message in capitals; `asked` has the prompts of each call."""

    def __init__(self, *, refuses: int | None = None, ends_behind: int | None = None) -> None:
        self.asked: list[list[int]] = []
        self._refuses, self._left = refuses, ends_behind

    def ask(self, prompt: Prompt, sampling: Sampling, on_part: Any, model: int = 0) -> Answer:
        return Answer(text=str(len(prompt.messages)), reasoning="Hm.")

    def answers(self, prompts: Sequence[Prompt], sampling: Sampling, size: int, model: int = 0) -> Iterator[Answer]:
        self.asked.append([each.number for each in prompts])
        for each in reversed(prompts):
            if each.number == self._refuses:
                yield Answer(text="", error="too long", number=each.number)
                continue
            if self._left is not None:
                self._left -= 1
                if self._left < 0:
                    raise KeyboardInterrupt
            yield Answer(text=each.messages[-1]["content"].upper(), finish=LENGTH, number=each.number)


class Quiet:
    """A reporter that shows nothing."""

    def note(self, text: str) -> None: ...
    def progress(self, what: str, done: int, total: int) -> None: ...
    def ended(self) -> None: ...


def work_of(tmp_path: Path, session: Session, *, force: bool = False, batch: int = 1, **sampling: Any) -> FileWork:
    request = TalkRequest(model="x", sampling=Sampling(**sampling))
    work = FileWork.begin(
        str(tmp_path / "rows.jsonl"), str(tmp_path / "out.jsonl"), request, ["prompt=question"], batch_size=batch
    )
    work.answers = AnswerFile(work.out, request.sampling.as_json(), force=force)
    work.run(session, lambda *_: None)
    return work


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "rows.jsonl", QUESTIONS)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_answers_stand_in_the_order_of_the_rows_with_their_references(tmp_path: Path, rows: Path):
    work_of(tmp_path, Session())
    found = lines(tmp_path / "out.jsonl")
    assert [each["row"] for each in found] == list(range(1, 8))
    assert found[2]["answer"] == "WHAT IS 2 + 2?" and found[2]["finish"] == LENGTH
    assert not (tmp_path / "out.jsonl.part").exists()


def test_a_stopped_file_continues_with_the_rows_that_have_no_complete_line(tmp_path: Path, rows: Path):
    with pytest.raises(KeyboardInterrupt):
        work_of(tmp_path, Session(ends_behind=3))
    part = tmp_path / "out.jsonl.part"
    assert not (tmp_path / "out.jsonl").exists()
    with part.open("a", encoding="utf-8") as file:
        file.write('{"row": 1, "ans')  # a line that a killed process did not finish
    second = Session()
    work_of(tmp_path, second)
    assert second.asked == [[0, 1, 2, 3]], "the last three were answered before"
    assert [each["row"] for each in lines(tmp_path / "out.jsonl")] == list(range(1, 8))


def test_a_part_of_other_settings_is_not_continued(tmp_path: Path, rows: Path):
    with pytest.raises(KeyboardInterrupt):
        work_of(tmp_path, Session(ends_behind=3))
    with pytest.raises(BadInput, match="answers of another model, file or settings"):
        work_of(tmp_path, Session(), temperature=1.0)
    work_of(tmp_path, Session(), temperature=1.0, force=True)
    assert len(lines(tmp_path / "out.jsonl")) == 7


def test_a_complete_file_is_not_overwritten(tmp_path: Path, rows: Path):
    work_of(tmp_path, Session())
    with pytest.raises(BadInput, match=r"out\.jsonl exists"):
        work_of(tmp_path, Session())


def test_a_row_without_an_answer_keeps_its_place_and_the_reason(tmp_path: Path):
    write_rows(tmp_path / "rows.jsonl", [*QUESTIONS[:2], {"question": None, "answer": "4"}, QUESTIONS[3]])
    work_of(tmp_path, Session(refuses=1))
    found = lines(tmp_path / "out.jsonl")
    assert found[1] == {"row": 2, "error": "too long"}
    assert found[2]["row"] == 3 and "question" in found[2]["error"]
    assert found[3]["answer"] == "WHAT IS 3 + 3?"


def test_a_system_prompt_replaces_that_of_the_rows(tmp_path: Path):
    chat = [{"role": "system", "content": "Old."}, {"role": "user", "content": "Hi"}]
    write_rows(tmp_path / "rows.jsonl", [{"messages": [*chat, {"role": "assistant", "content": "Ho"}]}])
    [kept], [new], [none] = (rows_of(tmp_path / "rows.jsonl", {}, system) for system in (None, "New.", ""))
    systems = [
        [each["content"] for each in row.prompt.messages if each["role"] == "system"] for row in (kept, new, none)
    ]
    assert systems == [["Old."], ["New."], []]
    assert kept.reference == "Ho"


def test_each_model_of_a_chat_remembers_its_own_answers():
    chat = Chat(Session(), Sampling(), models=2, system="Be brief.")
    for text in ("One", "Two"):
        for model in range(2):
            chat.ask(text, lambda *_: None, model)
    assert [each["role"] for each in chat.turns[1]] == ["system", "user", "assistant", "user", "assistant"]
    assert chat.turns[0][2] == {"role": "assistant", "content": "2", "reasoning_content": "Hm."}
    chat.forget_last()
    assert [len(each) for each in chat.turns] == [3, 3]


def test_a_folder_without_a_model_is_refused_by_name(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="empty holds neither a model nor an adapter"):
        find_model(str(tmp_path / "empty"), ModelRequest(runner="process"), Quiet())


def test_an_adapter_that_names_no_base_asks_for_one(tmp_path: Path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}", encoding="utf-8")
    (folder / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(BadInput, match="does not name its base") as refused:
        find_model(str(folder), ModelRequest(runner="process"), Quiet())
    assert "--base" in refused.value.hint
    base = hollow_checkpoint(tmp_path / "base")
    found = find_model(str(folder), ModelRequest(runner="process", base=str(base)), Quiet())
    assert found.trained.base == str(base)


def test_an_adapter_whose_base_is_gone_is_refused(tmp_path: Path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    named = {"base_model_name_or_path": str(tmp_path / "gone")}
    (folder / "adapter_config.json").write_text(json.dumps(named), encoding="utf-8")
    (folder / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(BadInput, match="gone does not exist"):
        find_model(str(folder), ModelRequest(runner="process"), Quiet())
