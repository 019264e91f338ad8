"""A masked-diffusion base made fit for training, and held to its claim by numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import torch

from dimba.common.errors import BadInput
from dimba.options.diffusion_table import MASK_TOKEN
from dimba.trainers.models.direction import Influence, difference, influence, probe_ids
from dimba.trainers.models.masked_diffusion.forward import half_masked, logits_of, mask_id
from dimba.trainers.models.saved_model import evaluating
from dimba.trainers.models.sharding import from_first_rank, is_sharded
from dimba.trainers.ranks import is_main_process

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from dimba.common.trained import TrainedModel
    from dimba.options.trainer import TrainerOptions
    from dimba.trainers.data.token_store import TokenStore

_BASE = "--base-checkpoint"
_FELT = 1e-4  # a share of the logits: the tokens of a new model may not meet at all
_NEGLIGIBLE = 1e-3  # of what earlier tokens change, beside rounding
_ROUNDING, _ROUNDING_HALF = 1e-3, 0.05  # shares of the logits, in float32 and in 16 bits
_PADDING = 5  # tokens
_FIRST = 8  # rows in which the tokens of a template show


def prepare(model: PreTrainedModel, options: TrainerOptions, tokenizer: PreTrainedTokenizerBase) -> Iterator[str]:
    """Name the mask token in the model's configuration, which is saved; return a line on it and on the rows.

    Raises:
        BadInput: there is no mask token, tokens do not attend to later ones, or padding changes other tokens.
    """
    number = _mask_id(model, getattr(options, "mask_token", None), tokenizer, options.base_checkpoint)
    model.config.mask_token_id = number
    found = influence(model, lambda ids: half_masked(model, ids))
    if found is not None:
        _require_both_ways(found, options.base_checkpoint)
    if options.batch_size > 1:
        _require_padding(model, options.base_checkpoint)
    shown = tokenizer.convert_ids_to_tokens(number) if number < len(tokenizer) else None
    named = f"`{shown}` ({number:,})" if shown else f"{number:,}, which the tokenizer has no text for"
    both = f" ({found})" if found else ""
    return iter(
        [
            f"masked diffusion: the mask token is {named}",
            f"rows are not packed: tokens see each other both ways{both}, and would across packed rows too",
            *([model.scan_note()] if hasattr(model, "scan_note") else []),
        ]
    )


def require_unused_mask(model: PreTrainedModel, store: TokenStore, checkpoint: str) -> None:
    """As `require_none_masked`, for rows in a store."""
    require_none_masked(model, (store.row(each).input_ids for each in range(len(store))), checkpoint)


def require_none_masked(model: PreTrainedModel, rows: Iterable[Sequence[int]], checkpoint: str) -> None:
    """Raises BadInput for rows that hold the mask token: a chat template may write it, the words of a row cannot."""
    number = mask_id(model)
    if any(number in row for row in islice(rows, _FIRST)):
        problem = f"{checkpoint}: the chat template writes the mask token {number:,} into every row"
        raise BadInput(problem, f"name a token that no row has with {MASK_TOKEN.flag}", key=_BASE)


def name_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, trained: TrainedModel) -> None:
    """Name the mask token of a trained model: an adapter's base may not name the one that training was given."""
    place = trained.base or trained.folder
    model.config.mask_token_id = _mask_id(model, trained.mask_token, tokenizer, place)


def _mask_id(model: PreTrainedModel, named: str | None, tokenizer: PreTrainedTokenizerBase, checkpoint: str) -> int:
    number = _named_id(model, named, tokenizer, checkpoint)
    rows = model.get_input_embeddings().weight.shape[0]
    if not 0 <= number < rows:
        hint = "correct `mask_token_id` in config.json"
        raise BadInput(f"{checkpoint}: the mask token {number:,} is none of its {rows:,} tokens", hint, key=_BASE)
    for role in ("eos", "bos"):
        if number == getattr(tokenizer, f"{role}_token_id"):
            problem = f"{checkpoint}: the mask token {number:,} is the {role.upper()} token, which rows contain"
            raise BadInput(problem, f"name another with {MASK_TOKEN.flag}", key=_BASE)
    return number


def _named_id(model: PreTrainedModel, named: str | None, tokenizer: PreTrainedTokenizerBase, checkpoint: str) -> int:
    if named is not None:
        vocabulary = tokenizer.get_vocab()
        if named not in vocabulary:
            in_brackets = f"[{named}]"  # a list to YAML, without its quotes
            hint = f'quote it in YAML: "{in_brackets}"' if in_brackets in vocabulary else "name one of its tokens"
            raise BadInput(f"the tokenizer has no token `{named}`", hint, key=MASK_TOKEN.flag)
        return int(vocabulary[named])
    for number in (getattr(model.config, "mask_token_id", None), tokenizer.mask_token_id):
        if isinstance(number, int):
            return number
    problem = f"{checkpoint} names no mask token: neither `mask_token_id` in config.json nor the tokenizer does"
    raise BadInput(problem, f"name it with {MASK_TOKEN.flag} TOKEN", key=_BASE)


def _require_both_ways(found: Influence, checkpoint: str) -> None:
    """A model whose tokens do not meet at all, as a new one with closed gates, shows nothing."""
    if found.of_earlier <= _FELT or found.of_later > _NEGLIGIBLE * found.of_earlier:
        return
    problem = f"{checkpoint} is causal, and its `model_type` is that of a masked-diffusion model: {found}"
    raise BadInput(problem, "give a masked-diffusion model, or correct `model_type` in config.json", key=_BASE)


def _require_padding(model: PreTrainedModel, checkpoint: str) -> None:
    changed = from_first_rank(_padding(model) if is_main_process() or not is_sharded() else 0.0)
    allowed = _ROUNDING if next(model.parameters()).dtype == torch.float32 else _ROUNDING_HALF
    if changed > allowed:
        problem = f"{checkpoint} attends to padding, which changes the logits of a row by {changed:.1%}"
        hint = "set `training.batch_size: 1` (--batch-size 1), and raise the accumulation instead"
        raise BadInput(problem, hint, key=_BASE)


def _padding(model: PreTrainedModel) -> float:
    """By how much padding behind a row changes its logits, as a share of their size."""
    ids = probe_ids(model)
    padded = torch.cat([ids, ids[:, :_PADDING]], dim=1)
    attended = torch.ones_like(padded)
    attended[:, ids.shape[1] :] = 0
    share = torch.full((1,), 0.5, device=ids.device)
    with evaluating(model):
        alone = logits_of(model, ids, torch.ones_like(ids), share).float()
        beside = logits_of(model, padded, attended, share).float()[:, : ids.shape[1]]
    return difference(alone, beside)
