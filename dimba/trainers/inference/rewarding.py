"""Scores of answers: by rewards with a name, and by a reward model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dimba.common.errors import Location
from dimba.dataset.prompt_examples import PromptExample
from dimba.objectives.grpo import GrpoOptions
from dimba.objectives.rewards import parse_rewards
from dimba.trainers.inference.speaker import Speaker
from dimba.trainers.models.loading import Compute
from dimba.trainers.rewards import Completions, Reward, make_reward, needs_reference

_LONGEST = 4096  # tokens of a chat that a reward model reads

Scores = list[float | None]


def rewards_of(speaker: Speaker, asked: Mapping[str, Any]) -> Iterator[tuple[int, Scores]]:
    """(the number of the row, its scores) of each answer; a row without a reference has None where one is needed."""
    rows = asked["rows"]
    completions = _completions(rows, int(asked["limit"]))
    scores: list[Scores] = []
    for spec in parse_rewards(asked["rewards"]):
        found = _scores(make_reward(spec), completions)
        has_all = not needs_reference(spec)
        examples = completions.examples
        scores.append(
            [score if has_all or each.reference else None for score, each in zip(found, examples, strict=True)]
        )
    if asked.get("reward_model"):
        scores.append(_by_model(speaker, str(asked["reward_model"]), completions))
    for number, *found in zip((int(each["number"]) for each in rows), *scores, strict=True):
        yield number, found


def _scores(reward: Reward, completions: Completions) -> Scores:
    return reward(completions)


def _completions(rows: Sequence[Mapping[str, Any]], limit: int) -> Completions:
    return Completions(
        examples=[_example(each) for each in rows],
        places=[Location("row", row=int(each["number"]) + 1) for each in rows],
        texts=[str(each["text"]) for each in rows],
        token_ids=[range(int(each["tokens"])) for each in rows],
        limit=limit,
    )


def _example(row: Mapping[str, Any]) -> PromptExample:
    chosen, rejected = (tuple(row[name]) if row.get(name) else None for name in ("chosen", "rejected"))
    return PromptExample(
        messages=tuple(row["messages"]),
        reference=row.get("reference"),
        chosen=chosen,
        rejected=rejected,
        row={},
        plain=False,
    )


def _by_model(speaker: Speaker, folder: str, completions: Completions) -> Scores:
    from dimba.trainers.objectives.grpo.scoring import load_scorer  # trl, which the rewards above do not need

    device = speaker.base.get_input_embeddings().weight.device
    options = GrpoOptions(base_checkpoint=folder, output_dir=folder, max_length=_LONGEST)
    scorer = load_scorer(folder, options, speaker.loaded.tokenizer, Compute(on_cpu=device.type == "cpu", mixed="bf16"))
    chats = [
        (*example.messages, {"role": "assistant", "content": split.answer})
        for example, split in zip(completions.examples, completions.splits, strict=True)
    ]
    return list(scorer(chats))
