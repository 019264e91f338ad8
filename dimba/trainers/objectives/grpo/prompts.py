"""The prompts of a GRPO job."""

from dataclasses import dataclass
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from dimba.common.errors import BadInput, Location
from dimba.dataset.prompt_examples import PromptExample
from dimba.dataset.token_report import DataReport
from dimba.objectives.rewards import RewardSpec


class Prompt(NamedTuple):
    """A prompt example with its place in the data and the token ids of its prompt.

    `opening` is the mark of reasoning that the prompt ends in; the completion does not repeat it.
    """

    where: Location
    example: PromptExample
    ids: tuple[int, ...]
    opening: str = ""

    @property
    def tokens(self) -> int:
        """The number of tokens."""
        return len(self.ids)


@dataclass(frozen=True)
class Prompts:
    """The prompts of a job; `report.problem` is the reason why they must not be used, or empty."""

    tokenizer: PreTrainedTokenizerBase
    train: tuple[Prompt, ...]
    held_out: tuple[Prompt, ...]
    rewards: tuple[RewardSpec, ...]
    turn_ends: tuple[str, ...]  # the tokens that end an assistant's turn
    report: DataReport

    def require_usable(self) -> "Prompts":
        """These prompts; raises BadInput if the report names a problem."""
        if self.report.problem:
            raise BadInput(self.report.problem, self.report.hint)
        return self


def question(example: PromptExample) -> str:
    """The messages of a prompt as one text."""
    return "\n".join(f"{message['role']}: {message['content']}" for message in example.messages)
