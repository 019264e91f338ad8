"""The commands that come after a run."""

from dataclasses import dataclass
from pathlib import Path

from dimba.common.checkpoints import newest_checkpoint
from dimba.common.contract import ACTIVE
from dimba.records import RunRecord


@dataclass(frozen=True)
class NextStep:
    """A command to copy, and what it does, as a predicate."""

    command: str
    does: str

    def __str__(self) -> str:
        return f"`{self.command}` {self.does}"


def next_steps(record: RunRecord) -> tuple[NextStep, ...]:
    """What a user does next with this run: look, use and export it, or find out why it failed and resume it."""
    if record.status in ACTIVE:
        return NextStep(f"dimba watch {record.id}", "follows it"), _report(record.id)
    if record.status != "succeeded":
        return after_failure(record.id, record.output_dir, has_metrics=True)
    export = "--merged" if record.method != "full" else "--gguf q8_0"
    return (
        _report(record.id),
        NextStep(f"dimba chat {record.id}", "talks to the model"),
        NextStep(f"dimba export {record.id} {export}", "makes files for other programs, and proves them"),
    )


def after_failure(run: str, output_dir: str, *, has_metrics: bool) -> tuple[NextStep, ...]:
    """What comes after a run that did not succeed."""
    newest = newest_checkpoint(Path(output_dir)) if output_dir else None
    resume = (NextStep(f"dimba resume {run}", f"continues from {newest.name}"),) if newest else ()
    return NextStep(f"dimba logs {run}", "prints its log"), *resume, *((_report(run),) if has_metrics else ())


def _report(run: str) -> NextStep:
    return NextStep(f"dimba report {run} --open", "shows its curves, samples and data")
