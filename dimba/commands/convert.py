"""`dimba convert`: a masked checkpoint of the original DIMBA as a model folder, made where torch is."""

import json
import secrets
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dimba.commands.export.folder import aside, require_room
from dimba.common.checkpoint import check_tokenizer
from dimba.common.contract import absolute
from dimba.common.errors import BadInput
from dimba.jobs.context import JobContext, Policy, gather
from dimba.jobs.lifecycle import Reporter, interrupted, signals
from dimba.jobs.module_call import call_module
from dimba.jobs.place import one_shot
from dimba.objectives.registry import OBJECTIVES
from dimba.plan.mounts import same_place
from dimba.records.store import make_folder
from dimba.runners.registry import find_runner
from dimba.spec import parse_spec

_MODULE = "dimba.trainers.convert"
_MARGIN = 1.05
_NO_DATA = "none/none"  # a Hub id: no data are read
_NO_LIMIT = 7 * 24 * 3600.0  # seconds


@dataclass(frozen=True, kw_only=True)
class ConvertRequest:
    """The command line's part."""

    file: str
    out: str
    tokenizer: str | None = None
    runner: str | None = None


@dataclass(frozen=True, kw_only=True)
class Converted:
    """A model in `path`, and what it is."""

    path: Path
    facts: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """The path and the facts."""
        return {"path": str(self.path), **self.facts}


def convert(request: ConvertRequest, reporter: Reporter) -> Converted:
    """Convert; nothing is left in the target unless all of it is.

    Raises:
        BadInput: the file is no masked checkpoint of the published layout, the target is used, or the tokenizer
            does not fit.
        HostCannot: the disk is too small.
    """
    file, target = absolute(request.file), absolute(request.out)
    tokenizer = absolute(request.tokenizer) if request.tokenizer else None
    _check_places(file, target, tokenizer)
    require_room(target, int(file.stat().st_size * _MARGIN), key="OUT")
    context = _context(file, target, request.runner)
    image = context.runner.prepare(context.spec, reporter.progress)
    reporter.ended()
    context = replace(context, facts=replace(context.facts, image=image))
    facts = context.facts
    uid, gid = facts.output.uid, facts.output.gid
    make_folder(facts.cache, uid, gid)
    with signals(interrupted), aside(target, uid, gid) as folder:
        asked = {"file": str(file), "target": str(folder), "tokenizer": str(tokenizer) if tokenizer else None}
        place = one_shot(
            context.spec,
            facts,
            (
                *(same_place(each, read_only=True) for each in (file, tokenizer) if each),
                *(same_place(each, read_only=False) for each in (facts.cache, folder)),
            ),
            is_local=True,
            timeout=_NO_LIMIT,
            name=f"convert-{secrets.token_hex(4)}",
        )
        made = call_module(_MODULE, asked, place, context, reporter, what="the conversion")
    return Converted(path=target, facts=made)


def _check_places(file: Path, target: Path, tokenizer: Path | None) -> None:
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "does not exist"
        raise BadInput(what, "give the .pt file of a checkpoint", file=file)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise BadInput("is used already", "give a new folder", key="OUT", file=target)
    if tokenizer and not tokenizer.is_dir():
        hint = "give a folder with tokenizer.json"
        raise BadInput(f"{tokenizer} is no folder", hint, key="--tokenizer")
    if tokenizer:
        check_tokenizer(tokenizer, "--tokenizer")


def _context(file: Path, target: Path, runner: str | None) -> JobContext:
    """The context of a minimal spec: the user of the target's folder, and the place where torch is."""
    value = {
        "version": 1,
        "mode": next(iter(OBJECTIVES)),  # any: nothing is trained
        "method": "full",
        "base_checkpoint": str(file.parent),
        "dataset": {"name": _NO_DATA},
        "output_dir": str(target),
        "resources": {"gpus": "none"},
    }
    overrides = [f"runner={runner}"] if runner else []
    loaded = parse_spec(json.dumps(value).encode(), source=str(file), overrides=overrides)
    return gather(loaded, find_runner(loaded.spec.runner), Policy(asks="none", reads_data=False, trusts_spec=True))
