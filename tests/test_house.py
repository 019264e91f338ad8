"""The house rules that import-linter cannot state: how many rooms, how large, and which names stay inside them."""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dimba.objectives.families import FAMILIES
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


def comparing(words: set[str], source: str) -> set[str]:
    """Those of `words` that a module compares, looks up or keys a table by, also under a name given in the module."""
    tree = ast.parse(source)
    named: dict[str, set[str]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and not isinstance(node.value, ast.Dict):
            for target in node.targets:
                named.setdefault(ast.unparse(target), set()).update(words & texts(node.value))
    found: set[str] = set()
    for node in ast.walk(tree):
        for part in compared(node):
            found |= words & texts(part)
            found |= {word for inner in ast.walk(part) for word in named.get(ast.unparse(inner), ())}
    return found


def compared(node: ast.AST) -> Iterator[ast.AST]:
    """The parts of an expression that decide by equality."""
    match node:
        case ast.Compare():
            yield from (node.left, *node.comparators)
        case ast.Dict():
            yield from (key for key in node.keys if key)
        case ast.Subscript():
            yield node.slice
        case ast.MatchValue():
            yield node.value
        case ast.Call(func=ast.Attribute(attr="get" | "fromkeys" | "startswith" | "endswith")):
            yield from node.args[:1]


def texts(node: ast.AST) -> set[str]:
    return {each.value for each in ast.walk(node) if isinstance(each, ast.Constant) and isinstance(each.value, str)}


MODEL_TYPES = {name for each in FAMILIES for name in each.model_types}


def test_no_module_outside_of_objectives_compares_a_model_type_that_a_family_has():
    # Others have the name of the program as a key.
    sources = {place(file): source for file in FILES if "model_type" in (source := file.read_text("utf-8"))}
    assert {"objectives/families.py", "host/checkpoint.py"} < set(sources)
    found = {file: comparing(MODEL_TYPES, source) for file, source in sources.items()}
    assert not {file: words for file, words in found.items() if words and not file.startswith("objectives/")}


@pytest.mark.parametrize(
    "source",
    [
        'if config.get("model_type") == "dimba": pass',
        'TYPE = "dimba"\nif config["model_type"] == TYPE: pass',
        'TYPES = ("llada", "Dream")\nfits = name in TYPES',
        'ENDS = {"dimba": (".conv1d",)}\nends = ENDS.get(model_type, ())',
        'ENDS = dict.fromkeys(("mamba", "mamba2"), (".conv1d",))',
        'match model_type:\n    case "jamba": pass',
    ],
)
def test_each_way_to_compare_a_model_type_is_seen(source: str):
    assert comparing(MODEL_TYPES, source)


def test_an_objective_has_a_script_and_a_training_half():
    for each in OBJECTIVES.values():
        assert (HOUSE.parent / each.script).is_file()
        assert (HOUSE / "trainers" / "objectives" / each.name / "train.py").is_file()


def test_contributing_names_every_room():
    text = (HOUSE.parent / "CONTRIBUTING.md").read_text("utf-8")
    assert not [room for room in ROOMS if not re.search(rf"`{room}/`", text)]
