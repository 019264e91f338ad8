"""What a GRPO job says to people: the prompts and the reward before the first step, samples after the last."""

import textwrap
from collections.abc import Sequence
from typing import Any

from dimba.common.errors import printable
from dimba.dataset.token_report import DataReport
from dimba.objectives.rewards import reward_label

_WIDTH = 80
_SAMPLES = 3  # of the best and of the worst completions
_PROMPT_LETTERS, _TEXT_LINES = 120, 4


def introduce_prompts(report: DataReport) -> None:
    """What is asked, what answers are held against, and what is rewarded."""
    for line in (*report.lines(), *([] if report.validation else [report.halves()])):
        print(f"data: {printable(line)}", flush=True)
    print("data: the first row:", flush=True)
    text = "".join(part.text for part in report.shown[0].parts)
    text = text if len(text) <= 600 else f"{text[:280]} … {text[-280:]}"
    print("\n".join(f"  | {printable(line.expandtabs(4))}" for line in text.splitlines()), flush=True)


def held_out_line(when: str, reward: float | None, before: float | None, prompts: int, *, label: str = "reward") -> str:
    """The reward on held-out prompts; None where no completion got one."""
    if reward is None:
        return f"held-out {label} {when} training: none, no completion of the {prompts:,} prompts got one"
    gained = "" if before is None else f" ({reward - before:+.4f})"
    return f"held-out {label} {when} training: {reward:.4f}{gained} ({prompts:,} prompts)"


def show_samples(samples: Sequence[dict[str, Any]]) -> None:
    """The best and the worst completions of the last step, to read."""
    ordered = sorted((each for each in samples if each["reward"] is not None), key=lambda each: -each["reward"])
    picked = ordered if len(ordered) <= 2 * _SAMPLES else ordered[:_SAMPLES] + ordered[-_SAMPLES:]
    if not picked:
        return
    print("\nsamples of the last step, the best and the worst (all: samples.jsonl)")
    if (label := reward_label(picked[0]["rewards"])) != "reward":
        print(f"the {label} says nothing of what is right")
    print(f"{'reward':>8}  {'tokens':>6}  prompt and completion")
    for each in picked:
        asked = textwrap.shorten(str(each["prompt"][-1]["content"]), _PROMPT_LETTERS, placeholder=" …")
        print(f"{each['reward']:8.3f}  {each['tokens']:6}  {_hanging(f'? {asked}')}")
        print(f"{'':18}{_hanging(each['completion'].strip() or '(nothing)')}", flush=True)


def _hanging(text: str) -> str:
    """Lines that fit the rest of the row, the later ones below the first."""
    lines = textwrap.wrap(printable(" ".join(text.split())), _WIDTH - 18)
    lines = lines if len(lines) <= _TEXT_LINES else [*lines[: _TEXT_LINES - 1], "…"]
    return f"\n{'':18}".join(lines)
