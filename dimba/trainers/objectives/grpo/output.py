"""The output of a GRPO job: prompts and reward before the first step, samples after the last."""

import textwrap
from collections.abc import Sequence

from dimba.common.errors import printable
from dimba.dataset.token_report import DataReport
from dimba.objectives.rewards import reward_label
from dimba.trainers.objectives.data_output import print_excerpt, print_line, print_report
from dimba.trainers.objectives.grpo.sample_log import Sample

_WIDTH = 80
_SAMPLES = 3  # of the best and of the worst completions
_PROMPT_LETTERS, _TEXT_LINES = 120, 4


def print_prompts(report: DataReport) -> None:
    """Print the counts of the prompts, and the first prompt with its reference."""
    print_report(report)
    if not report.validation:  # else the report has this line already
        print_line(report.split_summary())
    print_line("the first row:")
    print_excerpt("".join(part.text for part in report.shown[0].parts))


def held_out_line(when: str, reward: float | None, before: float | None, prompts: int, *, label: str = "reward") -> str:
    """The reward on the held-out prompts with its change since `before`; None if no completion got one."""
    if reward is None:
        return f"held-out {label} {when} training: none, no completion of the {prompts:,} prompts got one"
    gained = "" if before is None else f" ({reward - before:+.4f})"
    return f"held-out {label} {when} training: {reward:.4f}{gained} ({prompts:,} prompts)"


def print_samples(samples: Sequence[Sample]) -> None:
    """Print the best and the worst completions of the last step."""
    picked = _best_and_worst(samples)
    if not picked:
        return
    print("\nsamples of the last step, the best and the worst (all: samples.jsonl)")
    if (label := reward_label(picked[0]["rewards"])) != "reward":
        print(f"the {label} does not measure correctness")
    print(f"{'reward':>8}  {'tokens':>6}  prompt and completion")
    for each in picked:
        prompt = textwrap.shorten(str(each["prompt"][-1]["content"]), _PROMPT_LETTERS, placeholder=" …")
        print(f"{each['reward']:8.3f}  {each['tokens']:6}  {_hanging(f'? {prompt}')}")
        print(f"{'':18}{_hanging(each['completion'].strip() or '(nothing)')}", flush=True)


def _best_and_worst(samples: Sequence[Sample]) -> list[Sample]:
    ordered = sorted((each for each in samples if each["reward"] is not None), key=lambda each: -each["reward"])
    return ordered if len(ordered) <= 2 * _SAMPLES else ordered[:_SAMPLES] + ordered[-_SAMPLES:]


def _hanging(text: str) -> str:
    """Lines that fit the rest of the row, the later ones below the first."""
    lines = textwrap.wrap(printable(" ".join(text.split())), _WIDTH - 18)
    lines = lines if len(lines) <= _TEXT_LINES else [*lines[: _TEXT_LINES - 1], "…"]
    return f"\n{'':18}".join(lines)
