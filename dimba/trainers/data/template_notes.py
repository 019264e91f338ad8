"""What is to be said of a checkpoint's chat template, once it has met the data."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dimba.common.contract import DEFAULT_CHAT_TEMPLATE
from dimba.trainers.data.omissions import NAMES
from dimba.trainers.data.token_store import TokenStore
from dimba.trainers.data.tokenization import Problem


def template_problem(store: TokenStore, tokenizer: Any, checkpoint: str) -> Problem | None:
    """What is wrong with a template that fails on every chat of the store."""
    return None if len(store) else faults_problem(store.note["faults"], store.note["rows"], tokenizer, checkpoint)


def faults_problem(faults: Mapping[str, int], total: int, tokenizer: Any, checkpoint: str) -> Problem | None:
    """What is wrong where nothing is left, for one reason: the rows are not to blame one by one."""
    if len(faults) != 1:
        return None
    [(reason, rows)] = faults.items()
    if 2 * rows <= total:  # most rows are at fault themselves
        return None
    problem = f"{_place(tokenizer, checkpoint)}: the chat template fails on every chat ({rows:,}): {reason}"
    return problem, "mend that template, or take a checkpoint whose template allows such chats"


def _place(tokenizer: Any, checkpoint: str) -> str:
    """Where the template stands."""
    if tokenizer.chat_template == DEFAULT_CHAT_TEMPLATE:
        return f"{checkpoint} (it has no template, so the default one is used)"
    folder = Path(checkpoint).expanduser()
    names = ("chat_template.jinja", "tokenizer_config.json")
    there = [folder / name for name in names if (folder / name).exists()]
    return str(there[0]) if there else f"{' or '.join(names)} of `{checkpoint}`"


def template_notes(store: TokenStore, tokenizer: Any) -> list[str]:
    """What is worth knowing of what it does with these chats."""
    notes = []
    if altered := store.note["altered"]:
        notes.append(f"of {altered:,} assistant turns the chat template shows a part only (not earlier reasoning)")
    rows = store.note["left_out"]
    notes += [f"{rows[key]:,} rows: the chat template leaves out {what}" for key, what in NAMES.items() if key in rows]
    if others := [end for end in store.note["turn_ends"] if tokenizer.eos_token not in end]:
        ends = f"`{others[0]}`, not with the end-of-sequence token `{tokenizer.eos_token}`"
        notes.append(f"the chat template ends a turn with {ends}: generation has to stop there too")
    return notes
