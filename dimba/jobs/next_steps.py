"""The commands that come after a run."""

from dataclasses import dataclass
from pathlib import Path

from dimba.common.checkpoints import newest_checkpoint
from dimba.common.contract import ACTIVE, read_json_object
from dimba.objectives.families import family_of
from dimba.records import RunRecord


@dataclass(frozen=True)
class NextStep:
    """A command to copy, and what it does, as a predicate."""

    command: str
    does: str


def next_steps(record: RunRecord) -> tuple[NextStep, ...]:
    """What a user does next with this run: look, use and export it, or find out why it failed and resume it."""
    report = NextStep(f"dimba report {record.id} --open", "shows its curves, samples and data")
    if record.status in ACTIVE:
        return (NextStep(f"dimba watch {record.id}", "follows it"), report)
    if record.status == "succeeded":
        saved = family_of(read_json_object(Path(record.output_dir) / "config.json"))
        export = "--merged" if record.method != "full" or saved.gguf else "--gguf q8_0"
        return (
            report,
            NextStep(f"dimba chat {record.id}", "talks to the model"),
            NextStep(f"dimba export {record.id} {export}", "makes files for other programs, and proves them"),
        )
    logs = NextStep(f"dimba logs {record.id}", "prints its log")
    if record.output_dir and (newest := newest_checkpoint(Path(record.output_dir))):
        return (logs, NextStep(f"dimba resume {record.id}", f"continues from {newest.name}"), report)
    return (logs, report)
