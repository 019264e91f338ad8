"""The training set: every chat as tokens, with what was cut and left out counted and said."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from dimba.errors import BadInput
from dimba.trainers.chat import Example, encode
from dimba.trainers.rows import Chat


@dataclass
class Examples:
    """The examples, and the counts that are said before the first step."""

    kept: list[Example] = field(default_factory=list)
    rows: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    cut_rows: int = 0
    cut_tokens: int = 0
    left_out: int = 0  # rows that have no trained token within the maximum length

    def summary(self, max_length: int) -> list[str]:
        """One line a fact worth knowing."""
        lines = [f"{self.rows:,} rows, {self.tokens:,} tokens, {self.trained_tokens:,} of them trained"]
        if self.cut_rows:
            lines.append(
                f"{self.cut_rows:,} rows are longer than {max_length:,} tokens: {self.cut_tokens:,} tokens cut off "
                "(raise --max-length to keep them)"
            )
        if self.left_out:
            lines.append(f"{self.left_out:,} rows left out: nothing trained within {max_length:,} tokens")
        return lines


def build_examples(tokenizer: Any, chats: Iterable[Chat], max_length: int) -> Examples:
    """Tokenises every chat, cut at `max_length`; raises BadInput where nothing at all would be trained."""
    result = Examples()
    for where, messages in chats:
        example = encode(tokenizer, messages, where)
        result.rows += 1
        over = len(example.input_ids) - max_length
        result.cut_rows += over > 0
        result.cut_tokens += max(over, 0)
        example = Example(example.input_ids[:max_length], example.trained[:max_length])
        trained = int(example.trained.sum())
        if not trained:
            result.left_out += 1
            continue
        result.kept.append(example)
        result.tokens += len(example.input_ids)
        result.trained_tokens += trained
    if not result.kept:
        raise BadInput(f"no row has a trained token within {max_length} tokens", "raise --max-length")
    return result


def shown(tokenizer: Any, example: Example) -> str:
    """The example decoded, with the trained part in [[ ]]."""
    text, trained = "", False
    run: list[int] = []
    for token, carries in [*zip(example.input_ids, example.trained, strict=True), (None, False)]:
        now = bool(carries)
        if run and (now != trained or token is None):
            decoded = tokenizer.decode(run)
            text += f"[[{decoded}]]" if trained else decoded
            run = []
        trained = now
        if token is not None:
            run.append(token)
    return text
