"""Problems and notes about a checkpoint's chat template, found by rendering the data with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dimba.common.contract import DEFAULT_CHAT_TEMPLATE
from dimba.common.units import quantity
from dimba.trainers.data.omissions import NAMES
from dimba.trainers.data.token_store import TokenStore
from dimba.trainers.data.tokenization import KEPT, SPLIT, TEXT, Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from dimba.options.trainer import TrainerOptions

_MOST_CONTROL = 0.01  # of the rows may have control tokens among their words that cannot be kept as text
_UNREAD = "columns not read"
_OUTCOMES = {
    SPLIT: "they are tokenised as text",
    KEPT: "they are control tokens for the model too",
    TEXT: "they are control tokens, as in plain text they may be meant",
}


def template_problem(store: TokenStore, tokenizer: PreTrainedTokenizerBase, checkpoint: str) -> Problem | None:
    """The problem of a template that fails on every chat of the store."""
    return None if len(store) else faults_problem(store.note["faults"], store.note["rows"], tokenizer, checkpoint)


def faults_problem(
    faults: Mapping[str, int], total: int, tokenizer: PreTrainedTokenizerBase, checkpoint: str
) -> Problem | None:
    """The problem of a template that fails on more than half of `total` rows for one reason (`faults`: reason → rows).

    None if there are several reasons, or if most rows are unusable by themselves.
    """
    if len(faults) != 1:
        return None
    [(reason, rows)] = faults.items()
    if 2 * rows <= total:
        return None
    problem = f"{_template_location(tokenizer, checkpoint)}: the chat template fails on every chat ({rows:,}): {reason}"
    return problem, "fix that template, or use a checkpoint whose template accepts such chats"


def _template_location(tokenizer: PreTrainedTokenizerBase, checkpoint: str) -> str:
    if tokenizer.chat_template == DEFAULT_CHAT_TEMPLATE:
        return f"{checkpoint} (it has no template, so the default one is used)"
    folder = Path(checkpoint).expanduser()
    names = ("chat_template.jinja", "tokenizer_config.json")
    there = [folder / name for name in names if (folder / name).exists()]
    return str(there[0]) if there else f"{' or '.join(names)} of `{checkpoint}`"


def control_problem(note: Mapping[str, Any], options: TrainerOptions) -> Problem | None:
    """The problem of control tokens among the words of more than _MOST_CONTROL of the rows of a store's note."""
    rows = note["control"].get(KEPT, 0)
    if options.control_tokens == "keep" or rows <= _MOST_CONTROL * note["rows"]:
        return None
    return (
        f"{rows:,} of {note['rows']:,} rows contain control tokens that people wrote ({_tokens(note)}), and they "
        "cannot be kept as text: the model would learn to end or begin a turn there",
        "remove them from these rows, or train on them as they are with --control-tokens keep (in a spec "
        "`trainer_args: {control-tokens: keep}`)",
    )


def prompt_notes(note: Mapping[str, Any], options: TrainerOptions, *, own_reward: bool) -> Iterator[str]:
    """Notes on GRPO's prompts: row_notes and omitted parts; `own_reward`: a user's function gets every column."""
    yield from row_notes(note, options, unread="columns for the reward functions only" if own_reward else _UNREAD)
    yield from _omission_notes(note["omitted"])


def _omission_notes(rows: Mapping[str, int]) -> Iterator[str]:
    return (f"{rows[key]:,} rows: the chat template omits {name}" for key, name in NAMES.items() if key in rows)


def row_notes(note: Mapping[str, Any], options: TrainerOptions, unread: str = _UNREAD) -> Iterator[str]:
    """Notes on unread columns, on control tokens among the words of rows, and on the template's clock."""
    if columns := note["unread"]:
        yield f"{unread}: {', '.join(columns)}"
    for outcome, rows in note["control"].items():
        yield f"control tokens that people wrote in {quantity(rows, 'row')} ({_tokens(note)}): {_OUTCOMES[outcome]}"
    if time := note["shown_time"]:
        pin = (
            ""
            if options.template_date
            else (
                f"; `--template-date {time[:10]}` (in a spec `trainer_args: {{template-date: {time[:10]}}}`) keeps it"
            )
        )
        yield f"the chat template shows the date: it is {time} in every row{pin}"


def _tokens(note: Mapping[str, Any]) -> str:
    return ", ".join(f"`{token}`" for token in note["control_tokens"])


def template_notes(store: TokenStore, tokenizer: PreTrainedTokenizerBase, options: TrainerOptions) -> list[str]:
    """Notes for the report: row_notes, turns shown in part, omitted parts, an end token that generation must know."""
    notes = list(row_notes(store.note, options))
    if altered := store.note["altered"]:
        notes.append(f"the chat template shows {altered:,} assistant turns in part only (not earlier reasoning)")
    notes += _omission_notes(store.note["omitted"])
    if others := [end for end in store.note["turn_ends"] if tokenizer.eos_token not in end]:
        ends = f"`{others[0]}`, not with the end-of-sequence token `{tokenizer.eos_token}`"
        notes.append(f"the chat template ends a turn with {ends}: generation has to stop there too")
    return notes
