"""The house rules that import-linter cannot state: how many rooms, how large, and which names stay inside them."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dimba.objectives.registry import OBJECTIVES

HOUSE = Path(__file__).parents[1] / "dimba"
FILES = sorted(HOUSE.rglob("*.py"))
ROOMS = sorted(folder.name for folder in HOUSE.iterdir() if (folder / "__init__.py").is_file())


def place(file: Path) -> str:
    return str(file.relative_to(HOUSE))


def test_there_are_sixteen_rooms_and_no_module_in_the_lobby():
    assert len(ROOMS) <= 16
    assert {file.name for file in HOUSE.glob("*.py")} == {"__init__.py", "__main__.py"}


def test_a_file_has_300_lines_at_most():
    assert not {place(file): lines for file in FILES if (lines := file.read_text("utf-8").count("\n")) > 300}


def test_nine_functions_in_ten_have_16_lines_at_most():
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    trees = (ast.parse(file.read_text("utf-8")) for file in FILES)
    lengths = sorted(
        (node.end_lineno or 0) - node.lineno + 1 for tree in trees for node in ast.walk(tree) if isinstance(node, kinds)
    )
    assert lengths[int(len(lengths) * 0.9)] <= 16


def imported(file: Path) -> Iterator[str]:
    """The top-level packages that a module imports, inside functions too."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


@pytest.mark.parametrize("room", ["common", "objectives", "options", "supervisor"])
def test_a_room_of_both_sides_needs_the_standard_library_alone(room: str):
    known = {*sys.stdlib_module_names, "dimba"}
    foreign = {place(file): set(imported(file)) - known for file in (HOUSE / room).rglob("*.py")}
    assert not {file: names for file, names in foreign.items() if names}


def naming(words: set[str], outside: str) -> list[str]:
    """Modules that have one of `words` as a text of its own, or as a key, outside of a folder."""
    found = []
    for file in FILES:
        texts = (node.value for node in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(node, ast.Constant))
        if not place(file).startswith(outside) and words & {text for text in texts if isinstance(text, str)}:
            found.append(place(file))
    return found


def test_no_module_outside_of_objectives_names_a_mode():
    # The demo trains one objective, and writes its name into a spec.
    assert naming(set(OBJECTIVES), "objectives/") == ["commands/demo.py"]


def test_an_objective_has_a_script_and_a_training_half():
    for each in OBJECTIVES.values():
        assert (HOUSE.parent / each.script).is_file()
        assert (HOUSE / "trainers" / "objectives" / each.name / "train.py").is_file()


def test_contributing_names_every_room():
    text = (HOUSE.parent / "CONTRIBUTING.md").read_text("utf-8")
    assert not [room for room in ROOMS if not re.search(rf"`{room}/`", text)]
