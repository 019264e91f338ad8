"""The exports of one command: rights on the Hub first, then each written aside, proven, renamed and uploaded."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dimba.commands.export.about import about
from dimba.commands.export.folder import aside, keep_earlier, needed_bytes, require_free, require_room, target_of
from dimba.commands.export.module import call, read_only
from dimba.commands.export.request import GGUF, ExportRequest
from dimba.common.contract import LIKELIEST_FILE, absolute
from dimba.common.errors import BadInput
from dimba.host.build_context import GGUF as GGUF_IMAGE
from dimba.host.proxies import PROXY_VARIABLES
from dimba.jobs.lifecycle import Reporter, interrupted, signals
from dimba.jobs.model_source import ModelSource, find_model
from dimba.objectives.families import CAUSAL
from dimba.objectives.family import Family
from dimba.plan.model import Mount
from dimba.plan.mounts import given_mounts

_VARIABLES = ("HF_TOKEN", *PROXY_VARIABLES)  # of this process, for the Hub


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A proven export in `path`; `record` is the content of its export.json."""

    path: Path
    record: dict[str, Any]
    name: str = ""  # of the model
    url: str = ""  # on the Hub
    family: Family = CAUSAL
    checked: bool = False  # it was there before, and has been compared again

    def as_json(self) -> dict[str, Any]:
        """The path, export.json and the page on the Hub."""
        return {"path": str(self.path), **self.record, **({"url": self.url} if self.url else {})}


@dataclass
class Export:
    """The work of one command."""

    request: ExportRequest
    reporter: Reporter
    source: ModelSource | None = field(default=None, init=False)

    def run(self, found: Callable[[Exported], None]) -> None:
        """Exports, and passes each to `found` as it is done.

        Raises:
            BadInput: the model cannot be exported like this, or the token may not write to the Hub.
            RunFailed: an export is not what was trained.
            HostCannot: the disk is too small, or the Hub does not answer.
        """
        self.request.require_sense()
        source = find_model(self.request.model, self.request.where, self.reporter)
        if self.request.gguf and (refusal := source.family.gguf):
            raise BadInput(f"{source.name} {refusal.problem}", refusal.hint, key="--gguf")
        if self.request.check is not None:
            found(self._checked(source))
            return
        kinds = self.request.kinds
        for kind in kinds:
            target = target_of(self.request, source, kind)
            require_free(target)
            require_room(target, needed_bytes(self.request, source, kind))
        source = source.prepared(self.reporter, GGUF_IMAGE if GGUF in kinds else None)
        if self.request.hub:
            self._require_rights(source)
        for kind in kinds:
            found(self._exported(source, kind))

    def _require_rights(self, source: ModelSource) -> None:
        asked = {"do": "rights", "name": self.request.hub, "public": self.request.public}
        for line in call(source, asked, self.reporter, variables=_VARIABLES, needs_gpus=False)["lines"]:
            self.reporter.note(str(line))

    def _checked(self, source: ModelSource) -> Exported:
        kind = GGUF if self.request.gguf else "merged"
        folder = absolute(self.request.check) if self.request.check else source.folder / kind
        if not folder.is_dir():
            hint = f"export it first: `dimba export {self.request.model} --{kind}`"
            raise BadInput(f"{folder} does not exist", hint, key="--check")
        source = source.prepared(self.reporter, GGUF_IMAGE if self.request.gguf else None)
        record = call(
            source, self._asked(source) | {"check": str(folder)}, self.reporter, mounts=_mounts(source, folder)
        )
        return Exported(path=folder, record=record, checked=True)

    def _exported(self, source: ModelSource, kind: str) -> Exported:
        target, owner = target_of(self.request, source, kind), source.facts.output
        asked = self._asked(source) | {"gguf": self.request.gguf if kind == GGUF else ""}
        with signals(interrupted), aside(target, owner.uid, owner.gid) as folder:
            asked |= {"target": str(folder)}
            record = call(source, asked, self.reporter, mounts=_mounts(source), writable=(folder,))
            keep_earlier(target, folder, owner.uid, owner.gid)
        url = self._uploaded(source, target) if self.request.hub else ""
        return Exported(path=target, record=record, name=asked["name"], url=url, family=source.family)

    def _uploaded(self, source: ModelSource, folder: Path) -> str:
        asked = {"do": "upload", "folder": str(folder), "name": self.request.hub, "public": self.request.public}
        asked["message"] = f"{source.name}, exported by dimba"
        mounts, variables = read_only(folder), _VARIABLES
        result = call(source, asked, self.reporter, mounts=mounts, variables=variables, needs_gpus=False)
        return str(result["url"])

    def _asked(self, source: ModelSource) -> dict[str, Any]:
        return {
            "do": "export",
            "trained": source.trained.as_json(),
            "dtype": self.request.dtype,
            "name": source.record.name if source.record else source.folder.name,
            "argv": source.run.plan().get("argv") or [] if source.run else [],
            "likeliest": _likeliest(source),
            "about": about(source, self.request.hub),
        }


def _likeliest(source: ModelSource) -> list[Any]:
    """What the trained model in memory continued its prompts with; empty where that is not known.

    A checkpoint of the run is another model, and so is the adapter on another base.
    """
    record, run = source.record, source.run
    if run is None or record is None or absolute(record.output_dir) != source.folder or source.request.base:
        return []
    file = run.attempt(max((each.number for each in record.attempts), default=1)) / LIKELIEST_FILE
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return found if isinstance(found, list) else []


def _mounts(source: ModelSource, *further: Path) -> tuple[Mount, ...]:
    """The run's data read-only, for the rows of the proof, and `further` folders."""
    data = [each for each in given_mounts(source.facts) if each.read_only and Path(each.source).exists()]
    return (*data, *read_only(*further)) if source.run else read_only(*further)
