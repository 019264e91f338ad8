"""The flags that a script's source defines, for when its `--help` cannot be run."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeGuard

from dimba.objectives.objective import Objective
from dimba.objectives.registry import OBJECTIVES
from dimba.options.param import flags_of

# argparse, optparse, click, typer
_DEFINERS = frozenset({"add_argument", "add_option", "option", "Option", "Argument"})
_FLAG = re.compile(r"--[A-Za-z0-9][\w-]*(?:\.[\w-]+)*")


def flags_in_source(source: str) -> frozenset[str]:
    """The flags in defining calls such as `add_argument("--x")` or `option("--x/--no-x")`, and in loops over these."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return frozenset()
    definers = _DEFINERS | frozenset(_other_names(tree))
    texts = (text for node in ast.walk(tree) for text in _defined(node, tree, definers))
    parts = (part.strip() for text in texts for part in text.split("/"))
    return frozenset(part for part in parts if _FLAG.fullmatch(part))


def _other_names(tree: ast.AST) -> Iterator[str]:
    """The names of aliases (`add = parser.add_argument`) and of functions that pass their arguments to a definer."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Attribute) and node.value.attr in _DEFINERS:
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))
        if isinstance(node, ast.FunctionDef) and any(_hands_on(call) for call in ast.walk(node)):
            yield node.name


def _hands_on(node: ast.AST) -> bool:
    return _calls(node, _DEFINERS) and any(isinstance(each, ast.Name | ast.Starred) for each in node.args[:1])


def _calls(node: ast.AST, names: frozenset[str]) -> TypeGuard[ast.Call]:
    if not isinstance(node, ast.Call):
        return False
    function = node.func
    return (function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")) in names


def _defined(node: ast.AST, tree: ast.AST, definers: frozenset[str]) -> Iterator[str]:
    if _calls(node, definers):
        yield from (text for each in node.args for text in _strings(each))
    if isinstance(node, ast.For) and any(_calls(each, definers) for each in ast.walk(node)):
        yield from _strings(_literal(node.iter, tree))


def _literal(node: ast.expr, tree: ast.AST) -> ast.AST:
    """The value that a loop iterates over; for a name, the value assigned to it."""
    if not isinstance(node, ast.Name):
        return node
    assigned = (each for each in ast.walk(tree) if isinstance(each, ast.Assign))
    named = (each.value for each in assigned if any(getattr(to, "id", "") == node.id for to in each.targets))
    return next(named, node)


def _strings(node: ast.AST) -> Iterator[str]:
    constants = (each.value for each in ast.walk(node) if isinstance(each, ast.Constant))
    return (value for value in constants if isinstance(value, str))


def flags_in_file(path: Path) -> frozenset[str]:
    """The flags of a script, and those of the objectives whose options it parses."""
    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return frozenset()
    return flags_in_source(source).union(*(flags_of(each.options) for each in _objectives_in(source)))


def _objectives_in(source: str) -> Iterator[Objective[Any]]:
    """The objectives that a script imports, as dimba's own trainers do."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    yield from (each for each in OBJECTIVES.values() if f"dimba.objectives.{each.name}" in modules)
