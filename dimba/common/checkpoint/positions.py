"""How many tokens a model has positions for, and whether it fails beyond them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dimba.common.checkpoint.files import Checkpoint
from dimba.common.checkpoint.refusal import Refusal

_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length", "seq_length", "n_ctx")
_LEARNED = re.compile(r"(wpe|embed_positions|position_embeddings?|positions_embed|pos_embed(ding)?s?)\.weight$")
_OTHER_SENSES = re.compile(r"vision|visual|vit|image|audio|encoder\.")
# Families that fail beyond their positions, with a table of them among the weights or without.
_TABLES = (
    "bart", "bert", "bert-generation", "big_bird", "bigbird_pegasus", "biogpt", "blenderbot", "blenderbot-small",
    "codegen", "ctrl", "electra", "ernie", "git", "gpt-sw3", "gpt2", "gpt_bigcode", "gpt_neo", "gptj", "marian",
    "mbart", "megatron-bert", "mpt", "mvp", "openai-gpt", "opt", "pegasus", "plbart", "rembert", "roc_bert", "roformer",
    "trocr",
)  # fmt: skip
_AFTER_PADDING = ("roberta", "camembert", "xmod", "data2vec")  # positions start behind the padding token's id
_OFFSET = 2  # rows in front of the first position, in these families
_WITH_OFFSET = ("bart", "biogpt", "mbart", "mvp", "opt", "plbart", "trocr")


@dataclass(frozen=True, kw_only=True)
class Positions:
    """The number of positions; `fixed` if a longer row fails, else the model extrapolates."""

    count: int
    fixed: bool

    def refusal(self, max_length: int, setting: str = "training.max_length: ") -> Refusal | None:
        """The refusal of rows of `max_length` tokens; the hint puts the number behind `setting`."""
        if not self.fixed or max_length <= self.count:
            return None
        problem = f"has learned positions for {self.count:,} tokens, fewer than max_length {max_length:,}"
        return Refusal(problem, f"set `{setting}{self.count}`, or take a base with a longer context")

    def warning(self, max_length: int) -> str:
        """One line for rows that are longer than what the model was made for; empty if there is none."""
        if self.fixed or max_length <= self.count:
            return ""
        return f"max_length {max_length:,} is beyond the base's context of {self.count:,} tokens: quality may suffer"


def positions_of(checkpoint: Checkpoint) -> Positions | None:
    """The positions of a checkpoint; None if neither its configuration nor its weights name a number."""
    text, rows = checkpoint.text_config, _table_rows(checkpoint)
    family = str(text.get("model_type") or "")
    count = context_length(text)
    if rows is None and family not in _TABLES:
        return Positions(count=count, fixed=False) if count else None
    if rows and (count is None or rows < count):
        count = rows
    if count is None:
        return None
    if family.startswith(_AFTER_PADDING) or "roberta" in family:
        padding = text.get("pad_token_id")
        count -= (padding if type(padding) is int else 1) + 1
    return Positions(count=count, fixed=True)


def context_length(config: Mapping[str, Any]) -> int | None:
    """The context length in tokens, from the usual keys of a config.json; None if it has none of them."""
    text = config.get("text_config")
    for part in (config, text if isinstance(text, Mapping) else {}):
        for name in _KEYS:
            if type(part.get(name)) is int and part[name] > 0:
                return int(part[name])
    return None


def _table_rows(checkpoint: Checkpoint) -> int | None:
    """Rows of the learned positions of the text part; those of an image or an audio part do not count."""
    for name, tensor in checkpoint.tensors.items():
        if _LEARNED.search(name) and not _OTHER_SENSES.search(name) and len(tensor["shape"]) == 2:
            rows = int(tensor["shape"][0])
            return rows - _OFFSET if checkpoint.text_config.get("model_type") in _WITH_OFFSET else rows
    return None
