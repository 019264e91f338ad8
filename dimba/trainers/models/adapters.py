"""The adapter: the modules of a base that it covers, those that it leaves out, and what is trained beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING

from torch import nn

from dimba.common.errors import BadInput
from dimba.common.units import quantity
from dimba.options.lora_table import (
    ALL_LINEAR,
    INIT,
    MODULES_TO_SAVE,
    NOT_QUANTISED,
    START_HINT,
    TARGET_MODULES,
    TRAINABLE_TOKENS,
    is_pattern,
    matches,
)
from dimba.options.trainer import TrainerOptions
from dimba.trainers.models.text_part import excluded_pattern
from dimba.trainers.models.vocabulary import trained_rows
from dimba.trainers.ranks import is_main_process

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_INIT = {"true": True, "false": False}
_ROUTER = re.compile(r"(^|\.)(router(\.|$)|gate$)")
_MAMBA = ("falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h")
_SHOWN = 12  # names in a hint


def adapter_config(
    options: TrainerOptions,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None = None,
    new_tokens: Sequence[int] = (),
) -> LoraConfig | None:
    """The adapter on the text part, and the rows of new and named tokens; None for full fine-tuning.

    Raises:
        BadInput: the options name a module or a token that the base does not have.
    """
    if not (options.use_lora or options.use_qlora):
        return None
    from peft import LoraConfig  # two seconds, which a preview of data does not need

    if options.use_qlora and options.lora_init in NOT_QUANTISED:
        raise BadInput(f"{options.lora_init} needs a base that is not quantised", START_HINT, key=INIT.flag)
    _check_names(options, model)
    rows = trained_rows(model, sorted({*new_tokens, *_token_ids(options, tokenizer)}))
    config = LoraConfig(
        r=options.lora_r,
        lora_alpha=options.lora_alpha,
        lora_dropout=options.lora_dropout,
        target_modules=_targets(options),
        exclude_modules=_excluded(options, model),
        modules_to_save=list(options.lora_modules_to_save) or None,
        trainable_token_indices=rows or None,
        use_rslora=options.use_rslora,
        use_dora=options.use_dora,
        init_lora_weights=_INIT.get(options.lora_init, options.lora_init),
        # A saved embedding and a head that shares its weights must stay one matrix.
        ensure_weight_tying=bool(options.lora_modules_to_save) and _is_tied(model),
        task_type="CAUSAL_LM",
    )
    _spare_fused_routers(config, options, model)
    return config


def _spare_fused_routers(config: LoraConfig, options: TrainerOptions, model: PreTrainedModel) -> None:
    """Drops the routers that peft adapts as parameters, where transformers has made one of each layer's experts."""
    from peft.utils.transformers_weight_conversion import (
        convert_peft_config_for_transformers,
        get_model_conversion_mapping,
    )

    if options.lora_target_modules != (ALL_LINEAR,):
        return
    convert_peft_config_for_transformers(config, model, get_model_conversion_mapping(model))
    if config.target_parameters:
        names = {each for each in config.target_parameters if not _chooses(each.removesuffix(".weight"))}
        config.target_parameters = sorted(names)


def _targets(options: TrainerOptions) -> str | list[str]:
    """Peft reads a text as a regular expression of whole names, and a list as names or ends of names."""
    names = options.lora_target_modules
    return names[0] if len(names) == 1 and is_pattern(names[0]) else list(names)


def _excluded(options: TrainerOptions, model: PreTrainedModel) -> str | None:
    patterns = [excluded_pattern(model)]
    if options.lora_target_modules == (ALL_LINEAR,):
        routers = router_names(model)
        patterns += map(re.escape, [*routers, *_state_projections(model)])
        if routers and is_main_process():
            kinds = ", ".join(f"`{name}`" for name in dict.fromkeys(each.rpartition(".")[2] for each in routers))
            print(f"the routers of the experts get no adapter: {quantity(len(routers), 'module')} named {kinds}")
    return "|".join(filter(None, patterns)) or None


def router_names(model: nn.Module) -> list[str]:
    """The modules that choose among the experts of a layer, by name; an adapter on some of them fails."""
    named = [name for name, module in model.named_modules() if _is_matrix(module) and _ROUTER.search(name)]
    return list(dict.fromkeys([*named, *_beside_experts(model)]))


def _state_projections(model: PreTrainedModel) -> list[str]:
    """The layers that Mamba's kernels read without calling them: peft refuses to adapt these."""
    if getattr(model.config, "model_type", "") not in _MAMBA:
        return []
    return [name for name, _ in model.named_modules() if name.endswith((".out_proj", ".conv1d"))]


def _beside_experts(model: nn.Module) -> Iterator[str]:
    for name, block in model.named_modules():
        children = dict(block.named_children())
        beside = (
            (f"{child}.{below}".rstrip("."), module)
            for child, part in children.items()
            if "experts" in children and child != "experts"
            for below, module in part.named_modules()
        )
        yield from (f"{name}.{path}" for path, module in beside if _is_matrix(module) and _chooses(path))


def _is_matrix(module: nn.Module) -> bool:
    """Whether it has a matrix of its own: not every router is a `Linear`."""
    weight = dict(module.named_parameters(recurse=False)).get("weight")
    return weight is not None and weight.dim() == 2


def _chooses(path: str) -> bool:
    return any(part in ("gate", "router") or part.endswith("_gate") for part in path.split("."))


def _is_tied(model: PreTrainedModel) -> bool:
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight


def _check_names(options: TrainerOptions, model: PreTrainedModel) -> None:
    names = [name for name, _ in model.named_modules() if name]
    flags = {TARGET_MODULES.flag: options.lora_target_modules, MODULES_TO_SAVE.flag: options.lora_modules_to_save}
    for flag, wanted in flags.items():
        for each in wanted:
            if not any(matches(each, name) for name in names):
                raise BadInput(f"no module of the base is named `{each}`", _similar(each, names), key=flag)


def _similar(wanted: str, names: Sequence[str]) -> str:
    last = [name for name in dict.fromkeys(each.rpartition(".")[2] for each in names) if not name.isdecimal()]
    close = get_close_matches(wanted, last, n=1)
    return f"did you mean `{close[0]}`?" if close else f"its modules: {', '.join(last[:_SHOWN])}"


def _token_ids(options: TrainerOptions, tokenizer: PreTrainedTokenizerBase | None) -> Iterator[int]:
    if not options.lora_trainable_tokens or tokenizer is None:
        return
    vocabulary = tokenizer.get_vocab()
    for token in options.lora_trainable_tokens:
        if token not in vocabulary:
            hint = "give tokens as they stand in tokenizer.json, such as <|im_end|>"
            raise BadInput(f"the tokenizer has no token `{token}`", hint, key=TRAINABLE_TOKENS.flag)
        yield vocabulary[token]
