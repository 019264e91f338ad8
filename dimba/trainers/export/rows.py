"""The rows that a proof runs: held out of training where a run held some out, else of its data, else built in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from dimba.common.errors import BadInput, DimbaError, Location, first_line
from dimba.dataset.formats import Sample
from dimba.objectives.registry import OBJECTIVES
from dimba.trainers.data.chat import ChatEncoder
from dimba.trainers.models.trained import Loaded
from dimba.trainers.objectives.registry import training_half

_ROWS, _TOKENS = 16, 256  # at most, and of each row
_BYTES = 1 << 29  # of the logits of all rows
_ASKED = (
    "What is the capital of France?",
    "Write one sentence about the sea.",
    "How do I boil an egg?",
    "List three colours.",
    "Translate `good morning` into German.",
    "What is 12 times 12?",
)
_ANSWERS = (
    "The capital of France is Paris.",
    "The sea was calm, and the boats came home before dark.",
    "Put it into boiling water for seven minutes, then into cold water.",
    "Red, green and blue.",
    "Guten Morgen.",
    "12 × 12 = 144.",
)
Message = dict[str, Any]
BUILT_IN: tuple[tuple[Message, ...], ...] = tuple(
    ({"role": "user", "content": asked}, {"role": "assistant", "content": answer})
    for asked, answer in zip(_ASKED, _ANSWERS, strict=True)
)
LONGER = tuple(message for chat in BUILT_IN[:2] for message in chat)  # a chat of two turns each
BUILT_IN_ROWS = "built-in texts"
_TRAINED_ON, _HELD_OUT = "rows of the training data", "rows held out of training"


@dataclass(frozen=True)
class Rows:
    """Rows as token ids, and where they come from."""

    ids: tuple[tuple[int, ...], ...]
    source: str
    note: str = ""  # why they are not the run's


def proof_rows(loaded: Loaded, argv: Sequence[str], base: str, width: int) -> Rows:
    """The rows of the run that the trainer's command line `argv` names, for logits of `width` values a token."""
    budget = max(64, _BYTES // (4 * width))
    found, note = Rows((), ""), ""
    try:
        found = _rows_of_run(argv, base) if argv else found
    except (DimbaError, SystemExit) as error:
        note = f"the run's data cannot be read: {first_line(error)}"
    if not found.ids:
        found = Rows(tuple(_built_in(loaded)), BUILT_IN_ROWS, note)
    return replace(found, ids=_within(found.ids, budget))


def _within(rows: Sequence[Sequence[int]], budget: int) -> tuple[tuple[int, ...], ...]:
    """The beginnings of as many rows as `budget` tokens have room for; short rows leave room for the others."""
    chosen = sorted((tuple(row[:_TOKENS]) for row in rows[:_ROWS] if len(row)), key=len)
    found = []
    for number, row in enumerate(chosen):
        found.append(row[: max(1, budget // (len(chosen) - number))])
        budget -= len(found[-1])
    return tuple(found)


def _rows_of_run(argv: Sequence[str], base: str) -> Rows:
    place, objective = next(
        ((n, each) for n, word in enumerate(argv) for each in OBJECTIVES.values() if word.endswith(each.script)),
        (0, None),
    )
    if objective is None:
        return Rows((), "")
    options = replace(objective.parse(argv[place + 1 :]), base_checkpoint=base)
    held_out, trained = training_half(objective.name).token_rows(options, _ROWS)
    rows, source = (held_out, _HELD_OUT) if held_out else (trained, _TRAINED_ON)
    return Rows(tuple(tuple(map(int, each)) for each in rows), source)


def _built_in(loaded: Loaded) -> Iterator[tuple[int, ...]]:
    encoder = ChatEncoder(loaded.tokenizer, settings=loaded.settings)
    for chat in (*BUILT_IN, LONGER):
        sample = Sample(messages=chat, trained=tuple(each["role"] == "assistant" for each in chat))
        plain = "\n\n".join(str(each["content"]) for each in chat)
        try:
            [example] = encoder.encode_batch([encoder.render(sample, Location(BUILT_IN_ROWS))])
            ids = loaded.tokenizer(plain)["input_ids"] if isinstance(example, BadInput) else example.input_ids
        except BadInput:  # the template takes no such chat, or shows no borders of its turns
            ids = loaded.tokenizer(plain)["input_ids"]
        yield tuple(map(int, ids))
