"""The data as the model will see them, read by the trainer's own code where the trainer runs."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dimba.common.errors import BadInput, DimbaError, HostCannot, from_json
from dimba.common.json_lines import event_in
from dimba.dataset.token_report import DataReport
from dimba.host import findings
from dimba.host.build_context import package_folder
from dimba.host.facts import HostFacts, TrainerFacts
from dimba.host.source_flags import flags_in_file
from dimba.host.stamp import stamp
from dimba.host.trainer import own_trainer
from dimba.jobs.place import data_place, last_lines, supervised_command
from dimba.plan.checks import key_of
from dimba.plan.flags import Resolved, trainer_argv, value_problems
from dimba.plan.job import ResolvedJob
from dimba.plan.streaming import stream_problems
from dimba.records.store import make_folder
from dimba.runners.protocol import Runner

_KIND = "data"
_ROOMS = ("common", "dataset", "objectives", "options", "trainers/data", "trainers/objectives")

Progress = Callable[[int], None]


def cannot_preview(job: ResolvedJob, facts: HostFacts) -> str:
    """Why the data cannot be previewed; empty if they can."""
    if facts.image and facts.image.key is None:
        return f"{facts.image.reference} was not built by dimba"
    if facts.checkpoint.local and not Path(facts.checkpoint.reference, "tokenizer.json").is_file():
        return f"{facts.checkpoint.reference} has no tokenizer.json"
    return ""


def flag_problems(job: ResolvedJob, facts: HostFacts) -> list[DimbaError]:
    """The problems of flags and of a stream, for one of the project's own trainers."""
    own = own_trainer(job.mode, facts.project)
    if facts.trainer.path != own:
        return []
    if found := list(stream_problems(job.spec)):
        return found
    try:
        preview_argv(job, facts)
    except BadInput as error:
        return [error]
    return value_problems(job, own, facts.project)


def with_report(job: ResolvedJob, facts: HostFacts, runner: Runner, *, now: Progress | None) -> HostFacts:
    """The facts with the token report of a local file, remembered or made `now`."""
    ready = facts.image is None or facts.image.id is not None
    usable = not (facts.checkpoint.problem or facts.data.problem)
    local = facts.data.local and facts.checkpoint.local
    own = facts.trainer.path == own_trainer(job.mode, facts.project)
    if not (ready and usable and local and own) or cannot_preview(job, facts):
        return facts
    if flag_problems(job, facts):
        return facts  # the plan reports them
    try:
        report = remembered(job, facts)
        if report is None and now and runner.can_train():
            report = preview(job, facts, runner, now)
    except BadInput as error:
        return replace(facts, data=replace(facts.data, problem=error.detail, hint=error.hint, key=key_of(error)))
    return replace(facts, data=replace(facts.data, report=report))


def preview(job: ResolvedJob, facts: HostFacts, runner: Runner, progress: Progress) -> DataReport:
    """Read and tokenise the data, and keep the tokens for the job; `progress` gets the number of rows so far.

    Where jobs run in an image, `facts.image` must have been built.

    Raises:
        BadInput, HostCannot: the trainer refuses the data or the checkpoint.
    """
    make_folder(facts.cache, facts.output.uid, facts.output.gid)
    listener = _Listener(progress)
    command = supervised_command(facts, "dimba.trainers.data.preview", job.mode, *preview_argv(job, facts))
    done = runner.run_once(command, data_place(job.spec, facts), listener)
    if isinstance(listener.error, BadInput):
        remember(job, facts, {"error": listener.error.as_json()})
    if listener.report is None:
        raise listener.error or HostCannot(f"reading the data failed:\n{last_lines(done.text)}", "run `dimba doctor`")
    remember(job, facts, replace(listener.report, cached=True).as_json())
    return listener.report


def preview_argv(job: ResolvedJob, facts: HostFacts) -> list[str]:
    """The flags that the project's own trainer would get; of a custom trainer's those that it takes as well."""
    own = own_trainer(job.mode, facts.project)
    flags = flags_in_file(own)
    ours = job.trainer_args
    if facts.trainer.path != own:
        refused = {error.key for error in value_problems(job, own, facts.project)}
        ours = {key: ours[key] for key in ours if f"--{key}" in flags and f"trainer_args.{key}" not in refused}
    data, sources = facts.data.reference, tuple(each.reference for each in facts.data.sources)
    at = Resolved(facts.checkpoint.reference, data, str(facts.output.path), gpu_count=0, sources=sources)
    trainer = TrainerFacts(path=None, flags=flags, flags_from="source")
    return trainer_argv(job.with_args(ours), trainer, at)[0]


@dataclass
class _Listener:
    """Receives the JSON lines of `dimba.trainers.data.preview`; other lines come from libraries."""

    progress: Progress
    report: DataReport | None = None
    error: DimbaError | None = None

    def __call__(self, line: str) -> None:
        event = event_in(line)
        if event is None:
            return
        kind, value = event
        if kind == "rows":
            self.progress(int(value))
        elif kind == "report":
            self.report = DataReport.from_json(value)
        elif kind == "error":
            self.error = from_json(value)


# A report is remembered as long as the files that it depends on are unchanged; data on the Hub have no such files.


def remembered(job: ResolvedJob, facts: HostFacts) -> DataReport | None:
    """The report of the same data from an earlier preview; raises BadInput if the data were refused."""
    try:
        found = findings.recall(_KIND, _name(job, facts))
        error = from_json(found["error"]) if "error" in found else None
        report = None if error else DataReport.from_json(found)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    if error:
        raise error
    return report


def remember(job: ResolvedJob, facts: HostFacts, found: dict[str, Any]) -> None:
    """Keep a report or a refusal, readable by this user alone, as it shows examples."""
    if not (facts.data.local and facts.checkpoint.local):
        return
    findings.remember(_KIND, _name(job, facts), found)


def _code(package: Path) -> list[object]:
    """A stamp of every module that decides what the preview finds."""
    return [stamp(file) for room in _ROOMS for file in sorted((package / room).rglob("*.py"))]


def _versions() -> list[str]:
    try:
        return [version(name) for name in ("transformers", "tokenizers", "datasets")]
    except PackageNotFoundError:
        return []


def _name(job: ResolvedJob, facts: HostFacts) -> str:
    code = facts.image.id if facts.image else [facts.python, *_code(package_folder(facts.project)), *_versions()]
    files = [stamp(Path(facts.checkpoint.reference)), [(str(each), stamp(each)) for each in facts.data.files]]
    what = json.dumps([preview_argv(job, facts), code, files])
    return hashlib.sha256(what.encode()).hexdigest()[:32]
