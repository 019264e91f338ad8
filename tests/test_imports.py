"""Rules on imports that pyproject.toml cannot express."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = sorted(ROOT.glob("dimba/**/__init__.py"))


def imported(file: Path, *, at_once: bool = False) -> Iterator[tuple[str, str]]:
    """(module, name) of each `from module import name`; `at_once`: only those outside of functions."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in tree.body if at_once else ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, alias.name) for alias in node.names)


@pytest.mark.parametrize("init", PACKAGES, ids=lambda init: ".".join(init.parent.relative_to(ROOT).parts))
def test_no_package_imports_modules_that_import_it(init: Path):
    """Two threads that import such a package and its module at once would see one of them incomplete."""
    package = ".".join(init.parent.relative_to(ROOT).parts)
    if not any(module.startswith(package) for module, _ in imported(init, at_once=True)):
        return  # it imports none of its modules
    circles = {
        str(file.relative_to(ROOT)): name
        for file in init.parent.rglob("*.py")
        for module, name in imported(file)
        if module == package and file != init
    }
    assert not circles
