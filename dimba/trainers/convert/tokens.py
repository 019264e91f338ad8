"""The tokenizer of a converted model, with the token that stands for a masked one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dimba.common.errors import BadInput
from dimba.trainers.models.loading import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from dimba.models.dimba import DimbaConfig

MASK = "[MASK]"
_KEY = "--tokenizer"
_OWN = "give the folder of the tokenizer that the checkpoint was trained with"


def fitting_tokenizer(folder: Path, config: DimbaConfig) -> PreTrainedTokenizerFast:
    """The tokenizer in `folder`, with the mask token added where it ends just before it; fills in `config`.

    Raises:
        BadInput: it cannot be loaded, or its tokens are not those of the model.
    """
    tokenizer, mask = load_tokenizer(str(folder), _KEY), int(config.mask_token_id or 0)
    count = len(tokenizer)
    if count > config.vocab_size or count < mask:
        size = f"{count:,} tokens, and the model {config.vocab_size:,} with {mask:,} as its mask"
        raise BadInput(f"{folder} has {size}", _OWN, key=_KEY)
    if count > mask and not _is_special(tokenizer, mask):
        word = tokenizer.convert_ids_to_tokens(mask)
        problem = f"{folder} has an ordinary token, `{word}`, at {mask:,}, where the model has its mask"
        raise BadInput(problem, _OWN, key=_KEY)
    tokenizer.mask_token = MASK if count == mask else tokenizer.convert_ids_to_tokens(mask)
    if count == mask:
        tokenizer.add_special_tokens({"mask_token": MASK})
    if tokenizer.mask_token_id != mask:
        raise BadInput(f"{folder} has `{MASK}` at {tokenizer.mask_token_id}, not at {mask:,}", _OWN, key=_KEY)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config, name, getattr(tokenizer, name))
    return tokenizer


def _is_special(tokenizer: PreTrainedTokenizerFast, token: int) -> bool:
    """Whether the token is none of the words of a text: it was added, or marks an end, a start or padding."""
    return token in tokenizer.added_tokens_decoder or token in tokenizer.all_special_ids
