"""GRPO's prompts and the chats that a reward model scores, rendered with a chat template that may refuse some."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dimba.common.errors import BadInput, Location, UnusableRow
from dimba.dataset.prompt_examples import PromptExample
from dimba.trainers.data.render import TemplateFault, template_refusal

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Chat = Sequence[Mapping[str, Any]]


@dataclass
class RenderedPrompts:
    """`rows` of (where, example, tokens of its prompt), and the rows that the template refuses, by reason too."""

    rows: list[tuple[Location, PromptExample, int]] = field(default_factory=list)
    bad: list[UnusableRow] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)


def render_prompts(
    tokenizer: PreTrainedTokenizerBase, tasks: Sequence[tuple[Location, PromptExample]], *, pairs: bool
) -> RenderedPrompts:
    """Renders the prompts of (where, example) rows in order; with `pairs` also checks that both answers render."""
    rendered, texts, kept = RenderedPrompts(), [], []
    for where, task in tasks:
        try:
            text = chat_text(tokenizer, task.messages, where, ask=True)
            for answer in (task.chosen, task.rejected) if pairs else ():
                chat_text(tokenizer, (*task.messages, *(answer or ())), where)
        except TemplateFault as fault:
            rendered.bad.append(fault)
            rendered.faults[fault.reason] += 1
        else:
            kept.append((where, task))
            texts.append(text)
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    rendered.rows = [(*row, len(each)) for row, each in zip(kept, ids, strict=True)]
    return rendered


def chat_text(tokenizer: PreTrainedTokenizerBase, chat: Chat, where: Location, *, ask: bool = False) -> str:
    """The chat as text, followed by the generation prompt if `ask`; raises TemplateFault."""
    try:
        text: str = tokenizer.apply_chat_template(list(chat), tokenize=False, add_generation_prompt=ask)
    except Exception as error:  # a template is a program from elsewhere: it may raise anything
        raise template_refusal(where, str(error)) from error
    return text


def chat_ids(tokenizer: PreTrainedTokenizerBase, chats: Sequence[Chat]) -> list[list[int]]:
    """The token ids of complete chats; raises BadInput."""
    if not chats:
        return []
    try:
        encoded = tokenizer.apply_chat_template([list(chat) for chat in chats], return_dict=True)
    except Exception as error:  # as above
        problem = f"the chat template of the reward model refuses a chat: {error}"
        raise BadInput(problem, "give it a template that accepts such chats, or remove these rows") from error
    ids: list[list[int]] = encoded["input_ids"]
    return ids
