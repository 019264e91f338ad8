"""GRPO's prompts and the chats that a reward model scores, rendered with a chat template that may refuse some."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dimba.common.errors import BadInput, Location, UnusableRow
from dimba.dataset.prompt_examples import PromptExample, with_answer
from dimba.trainers.data.chat import ChatEncoder
from dimba.trainers.data.encoding import Example
from dimba.trainers.data.render import TemplateSettings
from dimba.trainers.data.tokenization import Counts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

Chat = Sequence[Mapping[str, Any]]


@dataclass
class RenderedPrompts:
    """`rows` of (where, example, text, ids), the rows that the template refuses, and what it did to the others.

    `text` is what the ids are tokens of: the prompt with the generation prompt at its end.
    """

    rows: list[tuple[Location, PromptExample, str, tuple[int, ...]]] = field(default_factory=list)
    bad: list[UnusableRow] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)
    shown_time: str = ""


def render_prompts(
    tokenizer: PreTrainedTokenizerFast,
    tasks: Sequence[tuple[Location, PromptExample]],
    settings: TemplateSettings,
    *,
    pairs: bool,
) -> RenderedPrompts:
    """Renders the prompts of (where, example) rows in order; with `pairs` also checks that both answers render."""
    encoder, found, kept = ChatEncoder(tokenizer, settings=settings), RenderedPrompts(), []
    for where, task in tasks:
        try:
            text = encoder.render_prompt(with_answer(task, None), where)
            for answer in (task.chosen, task.rejected) if pairs else ():
                encoder.render_prompt(with_answer(task, answer), where)
        except UnusableRow as fault:
            found.bad.append(fault)
            found.counts.add_unusable(fault)
        else:
            found.counts.unread.update(task.unread)
            kept.append((where, task, text))
    for (where, task, text), tokens in zip(kept, encoder.encode_batch([each[2] for each in kept]), strict=True):
        assert isinstance(tokens, Example), "without spans every text has tokens"
        found.counts.add_written([text])
        found.counts.add_control([text], [tokens])
        found.rows.append((where, task, text.text, tuple(tokens.input_ids.tolist())))
    found.shown_time = encoder.shown_time
    return found


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
