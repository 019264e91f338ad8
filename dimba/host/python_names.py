"""The names that a Python file defines, read without running it."""

import ast
from collections.abc import Iterator
from pathlib import Path

_MAKES_NAMES = frozenset({"*", "globals", "vars", "locals", "exec", "eval", "setattr", "__getattr__", "__dict__"})


def names_defined_in(file: Path) -> frozenset[str] | None:
    """The names that a file defines or imports at any place; None if that cannot be known without running it."""
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError):
        return None  # the job's Python may be newer than this one
    names = frozenset(_names(tree))
    return None if names & _MAKES_NAMES else names


def _names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.alias):
            yield (node.asname or node.name).partition(".")[0]
