"""GRPO's prompts as the model gets them, and the chats that a reward model scores: a chat template may refuse some."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dimba.common.errors import BadInput, Location, UnusableRow
from dimba.dataset.prompt_examples import PromptExample
from dimba.trainers.data.render import TemplateFault, refused

Chat = Sequence[Mapping[str, Any]]


@dataclass
class Prompted:
    """Rows with the tokens of their prompts, and those that the template refuses."""

    rows: list[tuple[Location, PromptExample, int]] = field(default_factory=list)
    bad: list[UnusableRow] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)


def prompted(tokenizer: Any, tasks: Sequence[tuple[Location, PromptExample]], *, pairs: bool) -> Prompted:
    """The rows in order; with `pairs` both ways to go on have to be chats of the template's, too."""
    found, texts, kept = Prompted(), [], []
    for where, task in tasks:
        try:
            text = chat_text(tokenizer, task.messages, where, ask=True)
            for said in (task.chosen, task.rejected) if pairs else ():
                chat_text(tokenizer, (*task.messages, *(said or ())), where)
        except TemplateFault as fault:
            found.bad.append(fault)
            found.faults[fault.reason] += 1
        else:
            kept.append((where, task))
            texts.append(text)
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    found.rows = [(*row, len(each)) for row, each in zip(kept, ids, strict=True)]
    return found


def chat_text(tokenizer: Any, chat: Chat, where: Location, *, ask: bool = False) -> str:
    """The chat in the template's words, those that ask for an answer behind it where `ask`; raises TemplateFault."""
    try:
        text: str = tokenizer.apply_chat_template(list(chat), tokenize=False, add_generation_prompt=ask)
    except Exception as error:  # a template is a program of somebody else's: it may fail in any way
        raise refused(where, str(error)) from error
    return text


def chat_ids(tokenizer: Any, chats: Sequence[Chat]) -> list[list[int]]:
    """The token ids of whole chats; raises BadInput."""
    if not chats:
        return []
    try:
        found = tokenizer.apply_chat_template([list(chat) for chat in chats], return_dict=True)
    except Exception as error:  # as above
        what = f"the chat template of the reward model refuses a chat: {error}"
        raise BadInput(what, "give it a template that allows such chats, or leave these rows out") from error
    ids: list[list[int]] = found["input_ids"]
    return ids
