"""GRPO: prompts, sampled groups, rewards and reward models."""

from collections.abc import Sequence

from dimba.dataset.token_report import DataReport
from dimba.objectives.grpo import GrpoOptions
from dimba.trainers.objectives.grpo.prompt_loading import load_prompts
from dimba.trainers.objectives.registry import HeldOutRows
from dimba.trainers.progress import Progress, ignored

TokenRows = Sequence[Sequence[int]]


def report(options: GrpoOptions, progress: Progress) -> DataReport:
    """The prompts as training would read them; raises BadInput."""
    return load_prompts(options, progress).report


def held_out_rows(options: GrpoOptions, progress: Progress) -> HeldOutRows:
    """The prompts that are held out, and the rewards that score their answers; raises BadInput."""
    prompts = load_prompts(options, progress)
    rows = ((each.where, each.example) for each in prompts.held_out)
    return HeldOutRows(rows, rewards=tuple(map(str, prompts.rewards)))


def token_rows(options: GrpoOptions, count: int) -> tuple[TokenRows, TokenRows]:
    """The tokens of the first `count` prompts that were held out, and of those that were trained; raises BadInput."""
    prompts = load_prompts(options, ignored)
    held_out, trained = ([each.ids for each in part[:count]] for part in (prompts.held_out, prompts.train))
    return held_out, trained
