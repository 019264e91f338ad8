"""GRPO: prompts, sampled groups, rewards and reward models."""

from dimba.dataset.token_report import DataReport
from dimba.objectives.grpo import GrpoOptions
from dimba.trainers.objectives.grpo.prompt_loading import load_prompts
from dimba.trainers.progress import Progress


def report(options: GrpoOptions, progress: Progress) -> DataReport:
    """The prompts as training would read them; raises BadInput."""
    return load_prompts(options, progress).report
