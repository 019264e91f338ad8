"""Writes dimba/common/checkpoint/releases.json: which releases of transformers know which model types.

    python scripts/tables/releases.py [--wheels FOLDER]

It downloads the first release of every minor version that the package index has, 500 MB in all, and reads each wheel's
list of configurations without importing it. A model type that a patch release brought thus counts from the next minor
version on. The table has these keys:

newest: the newest release that was read
first:  release → the model types that it was the first to know
last:   release → the model types that no later one knows
"""

import argparse
import ast
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from zipfile import ZipFile

FILE = Path(__file__).parents[2] / "dimba" / "common" / "checkpoint" / "releases.json"
_AUTO = "transformers/models/auto"
# Of 5.x, of 4.x, and of 4.0 to 4.8: the files that list configurations, and the names of the lists.
_PLACES = (f"{_AUTO}/auto_mappings.py", f"{_AUTO}/configuration_auto.py")
_LISTS = ("CONFIG_MAPPING_NAMES", "CONFIG_MAPPING")
_OLDEST = (4, 0)


def minor_releases() -> list[str]:
    """The first release of each minor version, oldest first."""
    pip = [sys.executable, "-m", "pip", "index", "versions", "transformers"]
    text = subprocess.run(pip, capture_output=True, text=True, check=True).stdout
    listed = re.findall(r"\b\d+\.\d+\.\d+\b", text.partition("Available versions:")[2].partition("\n")[0])
    first: dict[tuple[int, ...], str] = {}
    for version in sorted(listed, key=_numbers):
        first.setdefault(_numbers(version)[:2], version)
    return [version for minor, version in first.items() if minor >= _OLDEST]


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def model_types(wheel: Path) -> set[str]:
    """The model types that AutoConfig of the wheel's transformers knows."""
    with ZipFile(wheel) as archive:
        places = [place for place in _PLACES if place in archive.namelist()]
        return {name for place in places for name in _listed(ast.parse(archive.read(place)))}


def _listed(module: ast.Module) -> Iterator[str]:
    for statement in module.body:
        if _target(statement) not in _LISTS:
            continue
        for node in ast.walk(statement):
            names = [each.value for each in _names(node) if isinstance(each, ast.Constant)]
            yield from (name for name in names if isinstance(name, str))


def _names(node: ast.AST) -> Sequence[ast.expr | None]:
    """The first of a pair, or the keys of a mapping."""
    if isinstance(node, ast.Tuple) and len(node.elts) == 2:
        return node.elts[:1]
    return node.keys if isinstance(node, ast.Dict) else ()


def _target(statement: ast.stmt) -> str:
    """The name that a statement assigns to, or whose `update` it calls."""
    match statement:
        case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
            return name
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr="update"))):
            return name
    return ""


def table(known: dict[str, set[str]]) -> dict[str, object]:
    """The table, of the model types that each release knows, oldest release first."""
    first: dict[str, str] = {}
    last: dict[str, str] = {}
    for release, types in known.items():
        for name in types:
            first.setdefault(name, release)
            last[name] = release
    newest = list(known)[-1]
    gone = {name: release for name, release in last.items() if release != newest}
    return {"newest": newest, "first": _by_release(first, known), "last": _by_release(gone, known)}


def _by_release(found: dict[str, str], known: dict[str, set[str]]) -> dict[str, list[str]]:
    grouped = {release: sorted(name for name, each in found.items() if each == release) for release in known}
    return {release: names for release, names in grouped.items() if names}


def _download(release: str, folder: Path) -> Path:
    if not (found := [*folder.glob(f"transformers-{release}-*.whl")]):
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:", "-d", str(folder)]
        subprocess.run([*pip, f"transformers=={release}"], check=True)
        found = [*folder.glob(f"transformers-{release}-*.whl")]
    return found[0]


def _written(made: dict[str, object]) -> str:
    """The table with a line for each release, so that a difference shows what a release brought."""
    parts = [f'"newest": {json.dumps(made["newest"])}']
    for key in ("first", "last"):
        groups = made[key]
        assert isinstance(groups, dict)
        lines = ",\n".join(f"{json.dumps(release)}: {json.dumps(names)}" for release, names in groups.items())
        parts.append(f'"{key}": {{\n{lines}\n}}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def main() -> None:
    """Writes the table."""
    parser = argparse.ArgumentParser(description="the releases of transformers that know each model type")
    parser.add_argument("--wheels", type=Path, help="keep the wheels here, for the next time")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.wheels or Path(temporary)
        known = {release: model_types(_download(release, folder)) for release in minor_releases()}
    FILE.write_text(_written(table(known)), encoding="utf-8")


if __name__ == "__main__":
    main()
