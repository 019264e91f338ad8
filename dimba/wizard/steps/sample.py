"""The data set at a glance: format, number of rows, and the first example as the model will see it."""

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dimba.common.contract import DEFAULT_CHAT_TEMPLATE, absolute
from dimba.common.errors import BadInput, Location, printable
from dimba.common.units import quantity
from dimba.dataset.formats import Sample
from dimba.wizard.facts import chosen_on_hub, is_local, local_data
from dimba.wizard.lines import Line
from dimba.wizard.state import State

if TYPE_CHECKING:
    from dimba.host.hub import HubDataset

_LINES, _WIDTH = 10, 74


def sample(state: State, reference: str, columns: Mapping[str, str]) -> list[Line]:
    """A line of facts and the first example, or a warning that the data were not checked."""
    if is_local(state):
        summary = local_data(state, reference, columns).summary
        assert summary is not None, "local_data refuses a file without rows"
        assert summary.first is not None, "a file without a usable row is refused too"
        rows = quantity(summary.rows, "row")
        return [Line(f"{summary.format}: {rows}, all read", "good"), *_example(state, summary.first)]
    found = chosen_on_hub(state)
    if found.status != "found":
        return [Line(found.why if found.status == "gated" else f"not checked: {found.why}", "warn")]
    rows = quantity(found.rows, "row") if found.rows else "number of rows unknown"
    if not found.first:
        return [Line(f"on the Hub, {rows}; its rows were not checked ({found.why or 'no viewer'})", "warn")]
    return _first_on_hub(state, found, columns, rows)


def _first_on_hub(state: State, found: "HubDataset", columns: Mapping[str, str], rows: str) -> list[Line]:
    row = found.first or {}
    place, reader = Location(found.id, row=1), state.objective.rows
    try:
        name = reader.format_name(row, columns, place)
        if set(row) & set(found.truncated):
            return [Line(f"on the Hub: {name}, {rows}; the first is too long to show", "good")]
        first = reader.first_sample(row, columns, place)
    except BadInput as error:
        return [Line(f"on the Hub, {rows}; {error.message}", "warn")]
    return [Line(f"on the Hub: {name}, {rows}; the first was checked", "good"), *_example(state, first)]


def _example(state: State, example: Sample) -> list[Line]:
    text, rendering = _render(state, example)
    lines = [part for line in printable(text).splitlines() for part in textwrap.wrap(line, _WIDTH) or [""]]
    more = [Line(f"  … {len(lines) - _LINES} more lines", "dim")] if len(lines) > _LINES else []
    return [Line(f"The first example, {rendering}:", "dim"), *(Line(f"  {line}") for line in lines[:_LINES]), *more]


def _render(state: State, example: Sample) -> tuple[str, str]:
    """(text, note): rendered by the checkpoint's chat template if that is a local folder."""
    if example.text is not None:
        return example.text, "plain text; the loss is on all of it"
    base = absolute(state.value("base_checkpoint") or "", state.folder)
    try:
        from dimba.host.chat_template import render_chat

        text = render_chat(Path(base), list(example.messages), DEFAULT_CHAT_TEMPLATE) if base.is_dir() else None
    except BadInput as error:
        return _turns(example), f"turn by turn; {error.message}"
    if text is None:
        return _turns(example), "turn by turn (the trainer applies the chat template)"
    return text, f"as the model will see it; {_loss(example)}"


def _loss(example: Sample) -> str:
    if not any(example.trained):
        return "only the prompt, as answers are sampled"
    replies = [n for n, message in enumerate(example.messages) if message["role"] == "assistant"]
    if all(example.trained[n] for n in replies):
        return "the loss is on the assistant's turns"
    return f"the loss is on {sum(example.trained)} of {quantity(len(replies), 'turn')} of the assistant"


def _turns(example: Sample) -> str:
    return "\n".join(f"{message['role']}: {message['content']}" for message in example.messages)
