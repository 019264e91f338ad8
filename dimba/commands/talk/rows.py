"""Answers to a file of rows, written in their order; the same command continues one that was stopped."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dimba.commands.talk.session import ModelSession
from dimba.common.errors import BadInput, HostCannot, UnusableRow
from dimba.common.inference import Answer, Prompt, Sampling
from dimba.dataset.files import read_rows
from dimba.dataset.pairs import SkippedPair
from dimba.dataset.prompt_examples import PromptExample, prompts_of
from dimba.options.trainer import column_names

_WINDOW = 8  # batches that are sorted by length together
Progress = Callable[[str, int, int], None]  # (activity, rows done, of how many)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the file: its prompt, or why it has none."""

    number: int  # from 0
    prompt: Prompt | None
    reference: str | None = None
    problem: str = ""


def named_columns(columns: Sequence[str]) -> dict[str, str]:
    """Our names of columns → those of the file; raises BadInput."""
    try:
        return column_names(tuple(columns))
    except ValueError as error:
        raise BadInput(str(error), "for example `--columns prompt=question response=answer`") from None


def rows_of(file: Path, columns: Mapping[str, str], system: str | None = None) -> list[Row]:
    """The rows of a file of prompts, in any format that GRPO reads; raises BadInput."""
    _, found = prompts_of(read_rows(file), columns)
    return [_row(number, each, system) for number, (_, each) in enumerate(found)]


def _row(number: int, each: PromptExample | UnusableRow | SkippedPair, system: str | None) -> Row:
    if isinstance(each, UnusableRow):
        return Row(number=number, prompt=None, problem=each.detail)
    if isinstance(each, SkippedPair):
        return Row(number=number, prompt=None, problem=each.reason)
    messages = with_system(each.messages, system)
    prompt = Prompt(messages=messages, tools=each.tools, arguments=each.arguments, number=number)
    return Row(number=number, prompt=prompt, reference=each.reference)


def with_system(messages: Sequence[Mapping[str, Any]], system: str | None) -> tuple[Mapping[str, Any], ...]:
    """The messages with this system prompt in place of their own; None keeps theirs."""
    if system is None:
        return tuple(messages)
    rest = [each for each in messages if each["role"] != "system"]
    return ({"role": "system", "content": system}, *rest) if system else tuple(rest)


class AnswerFile:
    """`path`, in the order of the rows, once it is complete; until then `path.part`, in the order of the answers.

    The part's first line names what it answers. `done` are the rows that an earlier command has answered.

    Raises:
        BadInput: `path` exists, or the part belongs to another model, file or settings.
        HostCannot: it cannot be written.
    """

    def __init__(self, path: Path, header: Mapping[str, Any], *, force: bool) -> None:
        self.path, self._part = path, path.with_name(f"{path.name}.part")
        self._header = json.dumps({"answers": header}, sort_keys=True)
        if path.exists() and not force:
            raise BadInput(f"{path} exists", "give another file with `--out`, or `--force` to replace it")
        self.done = frozenset() if force else frozenset(json.loads(line)["row"] for line in self._answered())

    def _answered(self) -> list[str]:
        """The lines of an earlier command; one that it did not finish is removed."""
        if not self._part.exists():
            return []
        header, *lines = self._part.read_text(encoding="utf-8").splitlines(keepends=True) or [""]
        if header.rstrip("\n") != self._header:
            hint = "give another file with `--out`, or `--force` to begin again"
            raise BadInput(f"{self._part} has answers of another model, file or settings", hint)
        complete = [line for line in lines if line.endswith("\n")]
        self._part.write_text("".join([header, *complete]), encoding="utf-8")
        return complete

    def write(self, answers: Iterator[Mapping[str, Any]]) -> None:
        """Appends each answer as it comes, and renames the file once all are there."""
        try:
            with self._part.open("a" if self.done else "w", encoding="utf-8") as file:
                if not self.done:
                    file.write(self._header + "\n")
                for answer in answers:
                    file.write(json.dumps(answer, ensure_ascii=False) + "\n")
                    file.flush()
            self._complete()
        except OSError as error:
            hint = "make room, or give another file with `--out`"
            raise HostCannot(str(error.strerror), hint, file=self.path) from None

    def _complete(self) -> None:
        aside = self.path.with_name(f".{self.path.name}.complete")
        _, *lines = self._part.read_text(encoding="utf-8").splitlines(keepends=True)
        aside.write_text("".join(sorted(lines, key=lambda line: int(json.loads(line)["row"]))), encoding="utf-8")
        aside.replace(self.path)
        self._part.unlink()


def answer_rows(
    session: ModelSession,
    rows: Sequence[Row],
    sampling: Sampling,
    batch_size: int,
    progress: Progress,
    *,
    models: int = 1,
    of: int = 0,
) -> Iterator[dict[str, Any]]:
    """The line of each row, as the answers come; `of`: rows of the file in all, for the progress."""
    done, total = max(of - len(rows), 0), max(of, len(rows))
    for start in range(0, len(rows), _WINDOW * batch_size):
        for line in _window(session, rows[start : start + _WINDOW * batch_size], sampling, batch_size, models):
            done += 1
            progress("answering", done, total)
            yield line


def _window(
    session: ModelSession, rows: Sequence[Row], sampling: Sampling, batch_size: int, models: int
) -> Iterator[dict[str, Any]]:
    yield from (_line(row, [None]) for row in rows if row.prompt is None)
    by_number = {row.number: row for row in rows}
    prompts = [row.prompt for row in rows if row.prompt]
    first: dict[int, Answer] = {}
    for model in range(models if prompts else 0):
        for answer in session.answers(prompts, sampling, batch_size, model):
            if model == models - 1:
                before = [first[answer.number]] if model else []
                yield _line(by_number[answer.number], [*before, answer])
            else:
                first[answer.number] = answer


def _line(row: Row, answers: Sequence[Answer | None]) -> dict[str, Any]:
    line: dict[str, Any] = {"row": row.number + 1}
    first = answers[0]
    if row.prompt is None or first is None or first.error:
        return {**line, "error": row.problem or (first.error if first else "not answered")}
    line |= {"messages": row.prompt.messages, **fields_of(first)}
    if row.reference is not None:
        line["reference"] = row.reference
    if len(answers) > 1 and answers[1]:
        line["against"] = fields_of(answers[1])
    return line


def fields_of(answer: Answer) -> dict[str, Any]:
    """An answer as commands print and write it."""
    found: dict[str, Any] = {"answer": answer.text}
    if answer.reasoning:
        found["reasoning"] = answer.reasoning
    return {**found, "finish": answer.finish, "prompt_tokens": answer.prompt_tokens, "tokens": answer.tokens}
