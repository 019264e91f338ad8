"""Problems and notes about a checkpoint's chat template, found by rendering the data with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dimba.common.contract import DEFAULT_CHAT_TEMPLATE
from dimba.trainers.data.omissions import NAMES
from dimba.trainers.data.token_store import TokenStore
from dimba.trainers.data.tokenization import Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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


def template_notes(store: TokenStore, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Notes for the report: turns shown in part, omitted parts, and an end token that generation must know."""
    notes = []
    if altered := store.note["altered"]:
        notes.append(f"the chat template shows {altered:,} assistant turns in part only (not earlier reasoning)")
    rows = store.note["omitted"]
    notes += [f"{rows[key]:,} rows: the chat template omits {name}" for key, name in NAMES.items() if key in rows]
    if others := [end for end in store.note["turn_ends"] if tokenizer.eos_token not in end]:
        ends = f"`{others[0]}`, not with the end-of-sequence token `{tokenizer.eos_token}`"
        notes.append(f"the chat template ends a turn with {ends}: generation has to stop there too")
    return notes
