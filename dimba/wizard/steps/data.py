"""Step 3: the data set, checked at once."""

import os
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from dimba.common.contract import DATA_SUFFIXES, absolute, is_path, is_pattern
from dimba.common.errors import BadInput
from dimba.dataset.files import KINDS, find_files
from dimba.dataset.formats import UnknownFormat
from dimba.objectives.registry import OBJECTIVES
from dimba.options import table
from dimba.wizard.answers import Choice, InvalidAnswer
from dimba.wizard.facts import (
    columns,
    first_row,
    hub_dataset,
    is_local,
    local_data,
    needs_columns,
    prefetch_dataset,
    reference,
)
from dimba.wizard.lines import Line
from dimba.wizard.presets import CUSTOM, LOCAL, PRESETS, Preset, find_preset
from dimba.wizard.question import Question, from_param
from dimba.wizard.state import State
from dimba.wizard.steps.columns import COLUMN_QUESTIONS, recognise_on_hub
from dimba.wizard.steps.sample import sample

_COLUMNS = ("prompt_column", "response_column")


# The menu.


def _menu(state: State) -> Sequence[Choice]:
    wants = state.objective.wants
    presets = [Choice(each.label, f"{n}  {_described(each, wants)}", each.label) for n, each in enumerate(PRESETS, 1)]
    custom = Choice(CUSTOM, f"{len(PRESETS) + 1}  custom Hub data set  by its id", "custom Hub data set")
    local = Choice(LOCAL, f"{len(PRESETS) + 2}  local file           {' '.join(DATA_SUFFIXES)}", "local file")
    return [*presets, custom, local]


def _described(preset: Preset, wants: str) -> str:
    fit = "recommended" if wants in preset.suits else f"for {_modes_for(preset.suits[0])}"
    return f"{preset.label:<20} {preset.hub_id(wants):<40} {fit}"


def _modes_for(kind: str) -> str:
    return ", ".join(each.name.upper() for each in OBJECTIVES.values() if each.wants == kind)


def _before_menu(state: State) -> list[Line]:
    """Request the default data set from the Hub while the user reads the menu."""
    preset = find_preset(_menu_default(state))
    assert preset is not None, "the default is in the menu"
    prefetch_dataset(state, preset.hub_id(state.objective.wants))
    return []


def _menu_default(state: State) -> str:
    return state.objective.preset


def _check_menu(value: str, state: State) -> None:
    preset = find_preset(value)
    if preset is None:
        return
    hub_id = preset.hub_id(state.objective.wants)
    found = hub_dataset(state, hub_id)
    if found.status == "missing":
        near = f"; similar: {' or '.join(preset.nearest)}" if preset.nearest else ""
        instead = {"preset": CUSTOM, "dataset_id": preset.nearest[0]} if preset.nearest else {"preset": CUSTOM}
        raise InvalidAnswer(
            f"data set `{hub_id}`: {found.why}", f"choose another (5: custom Hub data set){near}", instead
        )


def _parse_id(text: str, state: State) -> str:
    text = text.strip()
    if not text or text.count("/") > 1 or any(character.isspace() for character in text):
        raise InvalidAnswer(f"`{text}` is not a Hub id", "write it as owner/name, such as openai/gsm8k")
    return text


def _check_id(value: str, state: State) -> None:
    found = hub_dataset(state, value)
    if found.status == "missing":
        raise InvalidAnswer(f"data set `{value}`: {found.why}", "check the id on the Hub; a private one needs HF_TOKEN")


# A file.


def _parse_path(text: str, state: State) -> str:
    text = text.strip()
    path = absolute(text, state.folder)
    if text and (is_pattern(text) or path.is_dir()):
        _check_files(path)
        return text
    if not text or not os.path.exists(path):
        near = _data_files(path.parent) if text and path.parent.is_dir() else []
        near = get_close_matches(path.name, near, n=1) or near
        hint = f"in {path.parent}: {', '.join(near[:5])}" if near else f"give the path of a file ({KINDS})"
        raise InvalidAnswer(f"data {path} does not exist" if text else "no file given", hint)
    return text


def _check_files(place: Path) -> None:
    try:
        find_files(place)
    except BadInput as error:
        raise InvalidAnswer(f"data {error.detail}", error.hint) from None


def _data_files(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir() if each.name.removesuffix(".gz").endswith(DATA_SUFFIXES))


def _check_path(value: str, state: State) -> None:
    if not state.value("columns"):  # else the check of the columns reads the file
        local_data(state, value, {})


def _path_hint(text: str, state: State) -> str:
    path = absolute(text.strip(), state.folder)
    if not text.strip():
        return f"a file, a folder or a pattern: {KINDS}"
    if not path.exists() and not is_pattern(text):
        return "no such file yet"
    try:
        place, row = first_row(path)
        return f"its first row: {state.objective.rows.format_name(row, {}, place)}"
    except UnknownFormat as error:
        return f"{error.finding}; press Enter to choose the columns"
    except BadInput as error:
        return error.message if error.line or error.row else error.finding


# Config, split, columns.


def _hub_configs(state: State) -> tuple[str, ...]:
    return tuple(hub_dataset(state, reference(state)).configs)


def _config_default(state: State) -> str | None:
    configs = _hub_configs(state)
    return None if not configs or "default" in configs else configs[0]


def _asks_config(state: State) -> bool:
    """Whether there are several, or the Hub did not list them."""
    configs = _hub_configs(state)
    return len(configs) > 1 or (state.value("preset") == CUSTOM and not configs)


def _config_hint(_text: str, state: State) -> str:
    names = ", ".join(_hub_configs(state))
    return f"its configurations: {names}" if names else "most data sets have none: leave this empty"


def _check_config(value: str | None, state: State) -> None:
    found = hub_dataset(state, reference(state), value)
    if found.status == "missing_config":
        raise InvalidAnswer(f"data set `{reference(state)}`: {found.why}", "choose one of those")


def _check_split(value: str, state: State) -> None:
    found = hub_dataset(state, reference(state), state.value("dataset_config"), value)
    if found.status == "missing_split":
        raise InvalidAnswer(f"data set `{reference(state)}`: {found.why}", "choose one of those")
    if found.first and not state.value("columns"):
        recognise_on_hub(state, found.first, {})


def _split_default(state: State) -> str:
    preset = find_preset(reference(state))
    if preset:
        return preset.split
    splits = hub_dataset(state, reference(state)).splits.get(state.value("dataset_config") or "default", ())
    return "train" if "train" in splits or not splits else str(splits[0])


def _split_hint(_text: str, state: State) -> str:
    splits = hub_dataset(state, reference(state)).splits
    names = sorted({name for each in splits.values() for name in each})
    return f"its splits: {', '.join(names)}" if names else "usually train; the data set's page on the Hub lists them"


def _after_data(state: State) -> list[Line]:
    """Format, rows and the first example; no lines before the columns are named."""
    if state.value("columns") or (state.interactive and needs_columns(state)):
        return []
    return sample(state, reference(state), columns(state))


def _from_flag(text: str, state: State) -> dict[str, Any]:
    """The answers that `--dataset TEXT` gives: a preset, a file or a Hub id, by the trainers' rules."""
    preset = find_preset(text)
    if preset and text not in preset.ids.values():
        return {"preset": preset.label}
    if is_path(text):
        return {"preset": LOCAL, "dataset_path": _parse_path(text, state)}
    if text.isdecimal() or text in (CUSTOM, LOCAL):
        raise InvalidAnswer(f"`{text}` names no data set", "give its Hub id, or the file's path")
    return {"preset": CUSTOM, "dataset_id": _parse_id(text, state)}


def _is_hub(state: State) -> bool:
    return not is_local(state)


QUESTIONS = (
    from_param(
        table.DATASET,
        key="preset",  # with the Hub id or the path in a question of its own
        step=3,
        metavar=f"{table.DATASET.metavar}|1-{len(PRESETS)}",
        help="a Hub id, a local file, or a preset of the menu by number or name",
        kind="choice",
        choices=_menu,
        default=_menu_default,
        from_flag=_from_flag,
        to_text=lambda preset: {LOCAL: "a local file", CUSTOM: "on the Hub"}.get(preset, preset),
        check=_check_menu,
        invalidates=_COLUMNS,
        before=_before_menu,
    ),
    Question(
        key="dataset_id",
        step=3,
        label="Its id on the Hub",
        parse=_parse_id,
        check=_check_id,
        applies=lambda state: state.value("preset") == CUSTOM,
        invalidates=_COLUMNS,
        live_hint=lambda _text, _state: "owner/name, such as openai/gsm8k",
    ),
    from_param(
        table.LOCAL_DATA,
        step=3,
        kind="path",
        parse=_parse_path,
        check=_check_path,
        invalidates=_COLUMNS,
        applies=is_local,
        after=_after_data,
        live_hint=_path_hint,
    ),
    from_param(
        table.DATASET_CONFIG,
        optional=True,
        step=3,
        default=_config_default,
        parse=lambda text, _state: text.strip() or None,
        to_text=lambda value: value or "",
        live_hint=_config_hint,
        check=_check_config,
        invalidates=_COLUMNS,
        applies=_is_hub,
        is_asked=_asks_config,
    ),
    from_param(
        table.DATASET_SPLIT,
        step=3,
        default=_split_default,
        parse=lambda text, _state: text.strip() or _refuse_empty("split"),
        check=_check_split,
        invalidates=_COLUMNS,
        applies=_is_hub,
        after=_after_data,
        live_hint=_split_hint,
    ),
    *COLUMN_QUESTIONS,
)


def _refuse_empty(noun: str) -> str:
    raise InvalidAnswer(f"no {noun} given", "type one, or press Esc to go back")
