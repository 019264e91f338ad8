"""Notes about the rows: columns that are not read, and a chat template that shows the date."""

from collections.abc import Iterator

from dimba.host.facts import HostFacts
from dimba.options.grpo_table import REWARD
from dimba.options.template_table import TEMPLATE_DATE
from dimba.spec.model import JobSpec


def row_notes(spec: JobSpec, facts: HostFacts) -> Iterator[str]:
    """A line for the columns that are not read, and one for the date, for trainers that can hold it."""
    if TEMPLATE_DATE.flag not in facts.trainer.flags:
        return
    if facts.data.summary and (columns := facts.data.summary.unread):
        own_reward = ".py:" in str(spec.trainer_args.get(REWARD.name, ""))
        unread = "columns for the reward functions only" if own_reward else "columns not read"
        yield f"data: {unread}: {', '.join(columns)}"
    if facts.checkpoint.shows_date:
        yield _about_date(spec)


def _about_date(spec: JobSpec) -> str:
    pinned = spec.trainer_args.get(TEMPLATE_DATE.name)
    if pinned is not None:
        return f"base_checkpoint: its chat template shows the date, {pinned} in every row"
    when = "of the first run on these rows" if spec.objective.tokenizes_first else "on which the job starts or resumes"
    return (
        f"base_checkpoint: its chat template shows the date, that {when}; "
        f"`trainer_args: {{{TEMPLATE_DATE.name}: 2026-11-28}}` sets it"
    )
