"""Writes docs/reference/ from the code: every key of a spec, every flag of a trainer, every command.

python scripts/docs/reference.py
"""

import argparse
import inspect
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from dimba.cli import command_parser
from dimba.objectives.registry import OBJECTIVES
from dimba.options import lora_table, optimiser_table, table, tracking_table
from dimba.options.param import Param
from dimba.options.param import parser_of as trainer_parser
from dimba.spec import json_schema

PLACE = Path(__file__).resolve().parents[2] / "docs" / "reference"
GENERATED = "This page is made from the code by `make reference`."
Row = tuple[str, ...]
_KINDS = {"null": "nothing", "object": "section", "array": "list", "string": "text"}


def main() -> None:
    """Write the three pages."""
    PLACE.mkdir(exist_ok=True)
    for name, text in pages().items():
        (PLACE / name).write_text(text, encoding="utf-8")


def pages() -> dict[str, str]:
    """The text of each page by its file name."""
    return {"spec.md": _spec_page(), "flags.md": _flags_page(), "commands.md": _commands_page()}


def _spec_page() -> str:
    schema = json_schema()
    rows = [(f"`{key}`", *rest) for key, *rest in _keys(schema, schema, "")]
    epochs = ", ".join(f"{each.name} {each.epochs:g}" for each in OBJECTIVES.values())
    rates = [
        (f"`{each.name}`", f"{each.rates.adapter:g}", f"{each.rates.full:g}", f"{each.epochs:g}")
        for each in OBJECTIVES.values()
    ]
    return _page(
        "The job spec, key by key",
        "A key without a default is required. Everything else may be left out.",
        _table(("key", "values", "default", "meaning"), rows),
        "## Defaults by mode",
        f"`training.learning_rate` and `training.epochs` ({epochs}) depend on the mode and the method.",
        _table(("mode", "learning rate, adapters", "learning rate, full", "epochs"), rates),
        "## Where the wizard starts",
        "By the memory of the smallest GPU; accumulation for LoRA, Q-LoRA and full.",
        *(_starts(name) for name in OBJECTIVES),
    )


def _starts(name: str) -> str:
    rows = [
        (f"{size} GB", *(str(start.accumulation[each]) for each in ("lora", "qlora", "full")), f"{start.max_steps:,}")
        for size, start in OBJECTIVES[name].starts.items()
    ]
    return f"### {name}\n\n" + _table(("GPU", "LoRA", "Q-LoRA", "full", "max steps"), rows)


def _keys(schema: dict[str, Any], section: dict[str, Any], prefix: str) -> Iterator[Row]:
    for name, about in section["properties"].items():
        key, found = f"{prefix}{name}", _resolved(schema, about)
        if "oneOf" in about:
            yield from _section_or_list(schema, about["oneOf"], key)
        elif "properties" in found:
            yield from _keys(schema, found, f"{key}.")
        else:
            required = name in section.get("required", ())
            default = "" if required else _default(about.get("default"))
            yield key, _values(schema, about), default, about.get("description", "")


def _section_or_list(schema: dict[str, Any], kinds: list[dict[str, Any]], key: str) -> Iterator[Row]:
    """The keys of a section, then those that only an item of a list of such sections has."""
    section, item = _resolved(schema, kinds[0]), _resolved(schema, kinds[1]["items"])
    yield from _keys(schema, section, f"{key}.")
    further = {name: about for name, about in item["properties"].items() if name not in section["properties"]}
    yield from _keys(schema, {"properties": further}, f"{key}[].")


def _resolved(schema: dict[str, Any], about: dict[str, Any]) -> dict[str, Any]:
    name = about.get("$ref", "").rpartition("/")[2]
    found: dict[str, Any] = schema["$defs"].get(name, about)
    return found


def _values(schema: dict[str, Any], about: dict[str, Any]) -> str:
    if "anyOf" in about:
        return " or ".join(dict.fromkeys(_values(schema, each) for each in about["anyOf"]))
    if "const" in about:
        return f"`{about['const']}`"
    if "enum" in about:
        return ", ".join(f"`{each}`" for each in about["enum"])
    bounds = {"minimum": "at least", "exclusiveMinimum": "above"}
    limits = [f"{words} {about[name]}" for name, words in bounds.items() if name in about]
    kind = about.get("type", "any")
    return " ".join([_KINDS.get(kind, kind), *limits])


def _default(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return ", ".join(f"`{each}`" for each in value)
    return (
        f"`{value:g}`" if isinstance(value, float) else f"`{value}`" if value and isinstance(value, int | str) else ""
    )


def _flags_page() -> str:
    sections = []
    for objective in OBJECTIVES.values():
        parser = trainer_parser(objective.options, objective.summary)
        rows = [_flag_row(action) for action in parser._actions if action.dest != "help"]
        script = f"`{objective.script}`"
        sections += [
            f"## {objective.name}",
            f"{script}: {objective.summary}",
            _table(("flag", "values", "default", "meaning"), rows),
        ]
    return _page(
        "The trainers' flags",
        "In a spec, flags without a key of their own go in `trainer_args`, without the dashes.",
        *sections,
        "## Flags of custom trainers",
        "The launcher passes a value by the first of these flags that the trainer's `--help` defines.",
        _table(("key", "flags, first match wins"), _alias_rows()),
    )


def _all_params() -> list[Param]:
    return [
        *(each for each in vars(table).values() if isinstance(each, Param)),
        *(*lora_table.PARAMS, *optimiser_table.PARAMS, *tracking_table.PARAMS),
    ]


def _alias_rows() -> list[Row]:
    params = [each for each in _all_params() if each.aliases]
    return [(f"`{each.key or each.name}`", " ".join(f"`{flag}`" for flag in each.spellings)) for each in params]


def _commands_page() -> str:
    sections: list[str] = []
    for each in _commands([])._choices_actions:
        # Some commands get their arguments only when they are called.
        command = _commands([each.dest]).choices[each.dest]
        actions = [action for action in command._actions if action.dest != "help"]
        sections += [f"## dimba {each.dest}", f"{(each.help or '')[:1].upper()}{(each.help or '')[1:]}."]
        sections += [_table(("argument", "values", "default", "meaning"), map(_flag_row, actions))] if actions else []
    return _page(
        "The commands",
        "Data go to stdout, everything else to stderr. Exit status: 0 done; 1 the run failed or was stopped elsewhere; "
        "2 the spec or the command line is wrong; 3 the host cannot run it; 4 the engine or the build failed; "
        "130 interrupted.",
        *sections,
    )


def _commands(words: list[str]) -> "argparse._SubParsersAction[argparse.ArgumentParser]":
    (commands,) = (each for each in command_parser(words)._actions if isinstance(each, argparse._SubParsersAction))
    return commands


def _flag_row(action: argparse.Action) -> Row:
    name = ", ".join(f"`{each}`" for each in action.option_strings) or f"`{action.metavar or action.dest}`"
    values = ", ".join(f"`{each}`" for each in action.choices) if action.choices else str(action.metavar or "")
    switch = action.nargs == 0
    default = "required" if action.required and action.option_strings else "" if switch else _default(action.default)
    default = "" if default == "none" else default
    return name, "" if switch or not action.option_strings else values, default, (action.help or "").replace("%%", "%")


def _table(head: Row, rows: Iterable[Row]) -> str:
    lines = [head, tuple("---" for _ in head), *(tuple(cell.replace("|", r"\|") for cell in row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _page(title: str, *parts: str) -> str:
    return inspect.cleandoc(f"# {title}") + "\n\n" + "\n\n".join([*parts, GENERATED]) + "\n"


if __name__ == "__main__":
    main()
