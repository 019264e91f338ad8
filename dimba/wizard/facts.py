"""Facts about the checkpoint, the file and the Hub entries that the answers name. Each probe runs once."""

import re
import shlex
from collections.abc import Mapping
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dimba.common.contract import absolute, is_path
from dimba.common.errors import BadInput, Location, UnusableRow
from dimba.dataset.files import Read, find_files, read_rows
from dimba.dataset.formats import UnknownFormat
from dimba.host.checkpoint import look_at_checkpoint
from dimba.host.facts import CheckpointFacts
from dimba.host.stamp import stamp
from dimba.wizard.answers import InvalidAnswer
from dimba.wizard.presets import CUSTOM, LOCAL, find_preset
from dimba.wizard.state import Report, State

if TYPE_CHECKING:
    from dimba.host.facts import DataFacts
    from dimba.host.hub import HubDataset, HubModel


# The checkpoint.


def base_is_local(state: State) -> bool:
    """Whether the base checkpoint is a folder."""
    return is_path(state.value("base_checkpoint") or "")


def base_facts(state: State) -> CheckpointFacts | None:
    """Facts of the base checkpoint, from its folder or from the Hub; None before it is answered."""
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
    """Facts of a checkpoint folder, read again once the folder changes."""
    return state.probe(
        checkpoint_probe(state, value), f"reading {value}", lambda: look_at_checkpoint(value, state.folder)
    )


def checkpoint_probe(state: State, value: str) -> object:
    """The name of the probe that reads a checkpoint folder."""
    return "checkpoint", value, stamp(absolute(value, state.folder))


def hub_model(state: State, hub_id: str) -> "HubModel":
    """The Hub's entry for a model."""
    from dimba.host.hub import look_at_model

    return state.probe(("model", hub_id), f"asking the Hub for {hub_id}", lambda: look_at_model(hub_id))


# The data.


def is_local(state: State) -> bool:
    """Whether the data set is a local file."""
    return bool(state.value("preset") == LOCAL)


def reference(state: State) -> str:
    """The Hub id or the file's path that the answers give."""
    preset = state.value("preset")
    if preset == LOCAL:
        return str(state.value("dataset_path"))
    if preset == CUSTOM:
        return str(state.value("dataset_id"))
    found = find_preset(preset)
    if found is None:  # from the draft of an older version
        raise InvalidAnswer(f"data set `{preset}` is not in the menu", "choose another")
    return found.hub_id(state.objective.wants)


def columns(state: State) -> dict[str, str]:
    """Our columns → theirs, from the flag or from the two questions once they are answered."""
    from_flag: dict[str, str] = state.value("columns") or {}
    keys = ("prompt_column", "response_column")
    if from_flag or not state.passed_keys.issuperset(keys):
        return from_flag
    prompt, response = (state.value(key) for key in keys)
    return {"prompt": prompt, "response": response} if prompt and response else {}


def hub_dataset(state: State, hub_id: str, config: str | None = None, split: str | None = None) -> "HubDataset":
    """The Hub's entry for a data set; its configuration and split are requested only if the id exists."""
    from dimba.host.hub import look_at_dataset

    if config or split:
        entry = hub_dataset(state, hub_id)
        if entry.status != "found":
            return entry
    name = ("data set", hub_id, config, split)
    return state.probe(name, f"asking the Hub for {hub_id}", lambda: look_at_dataset(hub_id, config, split))


def prefetch_dataset(state: State, hub_id: str) -> None:
    """Request a data set's entry from the Hub in the background, in case it is chosen."""
    from dimba.host.hub import look_at_dataset

    state.probes.start(("data set", hub_id, None, None), lambda: look_at_dataset(hub_id))


def chosen_on_hub(state: State) -> "HubDataset":
    """The Hub's entry for the chosen data set, configuration and split."""
    return hub_dataset(state, reference(state), state.value("dataset_config"), state.value("dataset_split"))


def local_data(state: State, value: str, renamed: Mapping[str, str]) -> "DataFacts":
    """Facts of a file, every row of it read; raises InvalidAnswer unless its columns can still be named."""
    from dimba.host.data import look_at_data
    from dimba.spec import Dataset

    _check_first_row(state, value, renamed)
    dataset, mode = Dataset(path=value, columns=dict(renamed)), state.value("mode")
    facts = state.wait_for(
        f"reading {value}",
        lambda report: look_at_data(dataset, state.folder, lambda rows: _report_rows(report, rows), mode),
    )
    if facts.problem and (renamed or not needs_columns(state)):
        raise InvalidAnswer(facts.problem, with_flag(facts.hint))
    return facts


def _report_rows(report: Report, count: int) -> None:
    if count % 10_000 == 0:
        report(f"{count:,} rows")


def _check_first_row(state: State, value: str, renamed: Mapping[str, str]) -> None:
    """Raise InvalidAnswer for an unusable first row at once, before a long file is read to its end."""
    try:
        place, row = first_row(absolute(value, state.folder))
        state.objective.rows.format_name(row, renamed, place)
    except UnknownFormat as error:
        if renamed or not state.interactive:
            raise InvalidAnswer(error.message, with_flag(error.hint)) from None
    except BadInput as error:
        raise InvalidAnswer(error.message, with_flag(error.hint)) from None


def with_flag(hint: str) -> str:
    """The hint with the wizard's flag in place of the spec's key."""
    return re.sub(r"`dataset\.columns: \{(.*?)\}`", _as_flag, hint)


def _as_flag(columns: re.Match[str]) -> str:
    pairs = columns[1].replace(": ", "=").split(", ")
    return f"`--columns {' '.join(shlex.quote(pair) if ' ' in pair else pair for pair in pairs)}`"


def example_row(state: State) -> Mapping[str, Any]:
    """The first row; empty if it is unavailable."""
    if not is_local(state):
        return chosen_on_hub(state).first or {}
    try:
        return first_row(absolute(reference(state), state.folder))[1]
    except BadInput:
        return {}


# The live hint needs the row at each keystroke, and a row may be long.
_FIRST_ROWS: dict[object, tuple[Location, dict[str, Any]]] = {}
_MAX_ATTEMPTS = 100


def first_row(path: Path) -> tuple[Location, dict[str, Any]]:
    """(place, row) of a file's first readable row; raises BadInput."""
    name = (path, stamp(path) or tuple((each, stamp(each)) for each in find_files(path).files))
    if name not in _FIRST_ROWS:
        with closing(read_rows(path)) as rows:
            _FIRST_ROWS[name] = _first_readable(rows)
    return _FIRST_ROWS[name]


def _first_readable(rows: Read) -> tuple[Location, dict[str, Any]]:
    problem: UnusableRow | None = None
    for place, row in islice(rows, _MAX_ATTEMPTS):
        if not isinstance(row, UnusableRow):
            return place, row
        problem = problem or row
    assert problem is not None, "read_rows refuses a file without rows"
    raise problem


def needs_columns(state: State) -> bool:
    """Whether no known format fits, but there are columns to choose from."""
    row = {} if state.value("columns") else example_row(state)
    try:
        state.objective.rows.format_name(row, {}, Location())
    except UnknownFormat:
        return len(row) > 1
    return False


def known_rows(state: State) -> int | None:
    """The number of usable rows, if known."""
    if not is_local(state):
        return chosen_on_hub(state).rows
    summary = local_data(state, reference(state), columns(state)).summary
    return summary.usable if summary else None
