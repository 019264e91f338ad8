"""Looks at what the answers name: the checkpoint, the file, the Hub. Each is made once."""

import re
import shlex
from collections.abc import Callable, Mapping
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dimba.common.contract import absolute, names_a_path
from dimba.common.errors import BadInput, BadRow
from dimba.dataset.files import Read, read_rows
from dimba.dataset.formats import UnknownFormat
from dimba.host.checkpoint import look_at_checkpoint
from dimba.host.facts import CheckpointFacts
from dimba.host.stamp import stamp
from dimba.wizard.presets import CUSTOM, LOCAL, find_preset
from dimba.wizard.question import Wrong
from dimba.wizard.state import State

if TYPE_CHECKING:
    from dimba.host.facts import DataFacts
    from dimba.host.hub import HubDataset, HubModel


# The checkpoint.


def base_is_local(state: State) -> bool:
    """Whether the base checkpoint means a folder."""
    return names_a_path(state.value("base_checkpoint") or "")


def base_facts(state: State) -> CheckpointFacts | None:
    """Facts of the base checkpoint, by a look into its folder or by what the Hub says; None where none is named."""
    value = state.value("base_checkpoint")
    if not value or base_is_local(state):
        return checkpoint_facts(state, value) if value else None
    found = hub_model(state, value)
    return CheckpointFacts(
        reference=value,
        local=False,
        architecture=found.architecture,
        parameters=found.parameters,
        dtype=found.dtype,
        context_length=found.context_length,
        has_chat_template=found.has_chat_template,
    )


def checkpoint_facts(state: State, value: str) -> CheckpointFacts:
    """A look into a folder, made anew once something in it has changed."""
    return state.look(
        checkpoint_name(state, value), f"reading {value}", lambda: look_at_checkpoint(value, state.folder)
    )


def checkpoint_name(state: State, value: str) -> object:
    """The name of that look."""
    return "checkpoint", value, stamp(absolute(value, state.folder))


def hub_model(state: State, hub_id: str) -> "HubModel":
    """What the Hub says of a model."""
    from dimba.host.hub import look_at_model

    return state.look(("model", hub_id), f"asking the Hub for {hub_id}", lambda: look_at_model(hub_id))


# The data.


def is_local(state: State) -> bool:
    """Whether the data are a file of this machine."""
    return bool(state.value("preset") == LOCAL)


def reference(state: State) -> str:
    """The Hub id, or the file's path, that the answers come to."""
    preset = state.value("preset")
    if preset == LOCAL:
        return str(state.value("dataset_path"))
    if preset == CUSTOM:
        return str(state.value("dataset_id"))
    found = find_preset(preset)
    if found is None:  # of an old draft
        raise Wrong(f"data set `{preset}` is not in the menu", "choose another")
    return found.hub_id(state.objective.wants)


def columns(state: State) -> dict[str, str]:
    """Ours → theirs, from the flag or from the two questions once they are answered."""
    given: dict[str, str] = state.value("columns") or {}
    keys = ("prompt_column", "response_column")
    if given or not state.passed.issuperset(keys):
        return given
    prompt, response = (state.value(key) for key in keys)
    return {"prompt": prompt, "response": response} if prompt and response else {}


def hub_dataset(state: State, hub_id: str, config: str | None = None, split: str | None = None) -> "HubDataset":
    """What the Hub says of a data set; where it says nothing of the id, it is not asked for more."""
    from dimba.host.hub import look_at_dataset

    if config or split:
        whole = hub_dataset(state, hub_id)
        if whole.status != "found":
            return whole
    name = ("data set", hub_id, config, split)
    return state.look(name, f"asking the Hub for {hub_id}", lambda: look_at_dataset(hub_id, config, split))


def prefetch_dataset(state: State, hub_id: str) -> None:
    """Begins to ask the Hub, in case this one is chosen."""
    from dimba.host.hub import look_at_dataset

    state.probes.start(("data set", hub_id, None, None), lambda: look_at_dataset(hub_id))


def chosen_on_hub(state: State) -> "HubDataset":
    """The Hub's word on the chosen data set, configuration and split."""
    return hub_dataset(state, reference(state), state.value("dataset_config"), state.value("dataset_split"))


def local_data(state: State, value: str, named: Mapping[str, str]) -> "DataFacts":
    """Facts of a file that was read whole; raises Wrong, but for columns that can still be named."""
    from dimba.host.probe import look_at_data
    from dimba.spec import Dataset

    _check_first_row(state, value, named)
    dataset, mode = Dataset(path=value, columns=dict(named)), state.value("mode")
    facts = state.waiting(
        f"reading {value}",
        lambda say: look_at_data(dataset, state.folder, lambda rows: _say_rows(say, rows), mode),
    )
    if facts.problem and (named or not needs_columns(state)):
        raise Wrong(facts.problem, with_flag(facts.hint))
    return facts


def _say_rows(say: Callable[[str], None], count: int) -> None:
    if count % 10_000 == 0:
        say(f"{count:,} rows")


def _check_first_row(state: State, value: str, named: Mapping[str, str]) -> None:
    """Says at once what is wrong with the first row, before a long file is read whole."""
    try:
        where, row = first_row(absolute(value, state.folder))
        state.objective.rows.format_name(row, named, where)
    except UnknownFormat as error:
        if named or not state.asking:
            raise Wrong(error.message, with_flag(error.hint)) from None
    except BadInput as error:
        raise Wrong(error.message, with_flag(error.hint)) from None


def with_flag(hint: str) -> str:
    """A hint for a spec as one for the wizard."""
    return re.sub(r"`dataset\.columns: \{(.*?)\}`", _as_flag, hint)


def _as_flag(columns: re.Match[str]) -> str:
    pairs = columns[1].replace(": ", "=").split(", ")
    return f"`--columns {' '.join(shlex.quote(pair) if ' ' in pair else pair for pair in pairs)}`"


def example_row(state: State) -> Mapping[str, Any]:
    """The first row; empty where it cannot be had."""
    if not is_local(state):
        return chosen_on_hub(state).first or {}
    try:
        return first_row(absolute(reference(state), state.folder))[1]
    except BadInput:
        return {}


# A row may be long, and it is asked for at each key that is typed.
_FIRST_ROWS: dict[object, tuple[str, dict[str, Any]]] = {}
_ROWS_TRIED = 100


def first_row(path: Path) -> tuple[str, dict[str, Any]]:
    """(where, row) of a file's first row that is readable; raises BadInput."""
    name = (path, stamp(path))
    if name not in _FIRST_ROWS:
        with closing(read_rows(path)) as rows:
            _FIRST_ROWS[name] = _first_readable(rows)
    return _FIRST_ROWS[name]


def _first_readable(rows: Read) -> tuple[str, dict[str, Any]]:
    problem: BadRow | None = None
    for where, row in islice(rows, _ROWS_TRIED):
        if not isinstance(row, BadRow):
            return where, row
        problem = problem or row
    assert problem is not None, "read_rows refuses a file without rows"
    raise problem


def needs_columns(state: State) -> bool:
    """Whether no known format fits, and there are columns to choose from."""
    row = {} if state.value("columns") else example_row(state)
    try:
        state.objective.rows.format_name(row, {}, "")
    except UnknownFormat:
        return len(row) > 1
    return False


def known_rows(state: State) -> int | None:
    """How many rows there are, where that is known."""
    if not is_local(state):
        return chosen_on_hub(state).rows
    summary = local_data(state, reference(state), columns(state)).summary
    return summary.usable if summary else None
