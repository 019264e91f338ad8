"""From GRPO's options to prompts for training and for the held-out test, with their rewards and a report."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from dimba.common.errors import BadInput, Location
from dimba.dataset.samples import Sample
from dimba.objectives.grpo import GrpoOptions
from dimba.trainers.data.chat import ChatEncoder, prepare_tokenizer
from dimba.trainers.data.loading import sources_from
from dimba.trainers.data.mixture import source_problem, weighted
from dimba.trainers.data.prompt_rendering import render_prompts
from dimba.trainers.data.render import TemplateSettings
from dimba.trainers.data.selection import hold_out
from dimba.trainers.data.template_notes import prompt_notes
from dimba.trainers.models.loading import load_context, load_tokenizer
from dimba.trainers.objectives.grpo.prompt_report import MeasuredRows
from dimba.trainers.objectives.grpo.prompts import Prompt, Prompts, question
from dimba.trainers.objectives.grpo.reward_choice import (
    choose_rewards,
    constant_rewards,
    has_reward_model,
    is_auto,
)
from dimba.trainers.objectives.grpo.rows import PromptRows, read_rows
from dimba.trainers.progress import Progress
from dimba.trainers.rewards.reasoning import opening_of


def load_prompts(options: GrpoOptions, progress: Progress) -> Prompts:
    """Read the rows, choose the rewards, and render and measure the prompts; raises BadInput."""
    limit = prompt_limit(options)
    tokenizer = load_tokenizer(options.base_checkpoint, code=options.trust_remote_code)
    tokenizer_note, turn_ends = prepare_tokenizer(tokenizer), turn_ends_of(tokenizer)
    rows = read_rows(options, progress)
    if not rows.examples and (problem := rows.problem(options)):
        raise BadInput(*problem)  # without rows there is no reward to choose
    rewards, reason = choose_rewards(options, rows)
    for spec in rewards:
        rows = rows.with_references(spec, clear=is_auto(options))
    rows, prompts, note = _render(tokenizer, rows, options, pairs=has_reward_model(rewards))
    train, held_out = _hold_out([each for each in prompts if each.tokens <= limit], options)
    epoch = _weighted(train, options)
    measured = MeasuredRows(rows, prompts, limit, options, note)
    own_reward = any(spec.file for spec in rewards)
    notes = (*rows.file_notes, tokenizer_note, f"reward: {reason}", *constant_rewards(rewards, options))
    report = replace(
        measured.report(tokenizer, notes=(*notes, *prompt_notes(note, options, own_reward=own_reward))),
        examples=len(epoch),
        validation=len(held_out),
        sources=measured.sources(epoch),
    )
    if problem := measured.problem(tokenizer, has_train=bool(train)) or source_problem(report.sources):
        report = replace(report, problem=problem[0], hint=problem[1])
    return Prompts(tokenizer, tuple(epoch), tuple(held_out), rewards, turn_ends, report)


def _weighted(prompts: Sequence[Prompt], options: GrpoOptions) -> Sequence[Prompt]:
    """The prompts of an epoch: each as often as the weight of its data set says."""
    if not options.mixture:
        return prompts
    numbers = np.array([each.example.source for each in prompts], dtype=np.int64)
    weights = [each.weight for each in sources_from(options)]
    return [prompts[int(n)] for n in weighted(np.arange(len(prompts)), numbers, weights, options.seed)]


def prompt_limit(options: GrpoOptions) -> int:
    """The most tokens of a prompt that leave room for the longest completion; raises BadInput."""
    context = load_context(options.base_checkpoint, code=options.trust_remote_code)
    most = min(options.max_length, context or options.max_length)
    limit = most - options.max_completion_length
    if limit < 1:
        name = "the model's context" if most == context else "max_length"
        raise BadInput(
            f"--max-completion-length {options.max_completion_length} leaves no prompt any room within {name} ({most})",
            "lower it" + ("" if most == context else ", or raise `training.max_length` (--max-length)"),
        )
    return limit


def turn_ends_of(tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """The tokens that end an assistant's turn in the tokenizer's chat template."""
    encoder = ChatEncoder(tokenizer)
    chat = ({"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"})
    encoder.render(Sample(messages=chat, trained=(False, True)), Location("the chat template"))
    return tuple(encoder.turn_ends)


def _render(
    tokenizer: PreTrainedTokenizerFast, rows: PromptRows, options: GrpoOptions, *, pairs: bool
) -> tuple[PromptRows, tuple[Prompt, ...], dict[str, Any]]:
    """(rows, prompts, counts as in a token store's note): rows that the chat template refuses are unusable."""
    found = render_prompts(tokenizer, rows.examples, TemplateSettings.of(options), pairs=pairs)
    prompts = tuple(Prompt(where, example, ids, opening_of(text)) for where, example, text, ids in found.rows)
    examples = tuple((each.where, each.example) for each in prompts)
    rows = replace(rows, examples=examples, bad=(*rows.bad, *found.bad), template_errors=found.counts.faults)
    return rows, prompts, {**found.counts.as_note(), "rows": rows.count, "shown_time": found.shown_time}


def _hold_out(prompts: Sequence[Prompt], options: GrpoOptions) -> tuple[list[Prompt], list[Prompt]]:
    """(for training, for the test): prompts with the same question are on the same side."""
    wanted = options.validation_split
    if isinstance(wanted, str):
        raise BadInput(f"--validation-split {wanted}: GRPO holds out prompts of its rows", "give a share or a number")
    if not wanted:
        return list(prompts), []
    questions = list(dict.fromkeys(question(each.example) for each in prompts))
    if wanted >= len(questions):
        problem = f"--validation-split {wanted:g}: the {len(prompts):,} rows ask {len(questions):,} different questions"
        hint = f"hold out at most {len(questions) - 1:,}: rows with the same question are on the same side"
        raise BadInput(problem, hint)
    chosen = {questions[int(n)] for n in hold_out(np.arange(len(questions)), wanted, options.seed)}
    sides: tuple[list[Prompt], list[Prompt]] = ([], [])
    for each in prompts:
        sides[question(each.example) in chosen].append(each)
    return sides
