"""`dimba pack`: a run as one file, from which others train the same."""

import os
from pathlib import Path

from dimba.commands.pack.run import PackedRun, packed_run
from dimba.common.errors import BadInput
from dimba.jobs.lifecycle import Reporter
from dimba.jobs.recipes.compare import compare
from dimba.jobs.recipes.difference import Difference
from dimba.jobs.recipes.launching import job_of_recipe
from dimba.records import RunFolder
from dimba.records.store import write_atomically
from dimba.spec import load_spec, parse_spec
from dimba.spec.recipe import BLOCK
from dimba.spec.write import recipe_yaml

_HEADING = """\
Recipe of {run}: `dimba launch FILE` trains the same,
`dimba plan FILE --same-as FILE` says what differs on a machine. Data and weights are not in it.
To train something else, remove `recipe:`."""


def pack(folder: RunFolder, out: Path | None, reporter: Reporter, *, with_code: bool) -> Path:
    """Write the recipe of a run to `out`, or to a file of its name in the current folder; returns the path.

    Raises:
        BadInput: the run has no recipe, or `out` is a file of something else.
        HostCannot: the file cannot be written.
    """
    packed = packed_run(folder, reporter, with_code=with_code)
    text = recipe_yaml(packed.values, _HEADING.format(run=packed.recipe.run), BLOCK)
    data = text.encode()
    path = out or Path.cwd() / f"{packed.recipe.run}.recipe.yaml"
    parse_spec(data, source=str(path))  # raises for what looks like a secret in code
    _require_free(path, packed, data)
    write_atomically(path, data, os.getuid(), os.getgid())
    return path


def compare_run(folder: RunFolder, file: Path, reporter: Reporter) -> list[Difference]:
    """What differs between a run and a recipe."""
    that = job_of_recipe(load_spec(file))
    return compare(packed_run(folder, reporter).job, that)


def _require_free(path: Path, packed: PackedRun, data: bytes) -> None:
    if not path.parent.is_dir():
        hint = f"`mkdir -p {path.parent}`, or give another file"
        raise BadInput(f"there is no folder {path.parent}", hint, key="--out")
    if path.is_dir():
        raise BadInput("is a folder", f"give a file: `--out {path / f'{packed.recipe.run}.recipe.yaml'}`", file=path)
    if not os.path.lexists(path) or path.read_bytes() == data:
        return
    try:
        old = load_spec(path).recipe
    except BadInput:
        old = None
    if old is None or old.run != packed.recipe.run:
        raise BadInput("exists, and is no recipe of this run", "give another file with --out, or remove it", file=path)
