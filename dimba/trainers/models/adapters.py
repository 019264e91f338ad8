"""The adapter: the modules of a base that it covers, those that it leaves out, and what is trained beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from torch import nn

from dimba.common.checkpoint.adapted import JOINED, chooses_experts, is_router
from dimba.common.errors import BadInput
from dimba.common.units import quantity
from dimba.options.lora_table import ALL_LINEAR, TARGET_MODULES, TOKENS_HINT, TRAINABLE_TOKENS, covers, is_pattern
from dimba.options.trainer import TrainerOptions
from dimba.trainers.models.adapter_checks import check_adapter, check_joined_experts, joined_experts, joined_names
from dimba.trainers.models.families import family_of_model
from dimba.trainers.models.text_part import excluded_pattern
from dimba.trainers.models.vocabulary import trained_rows
from dimba.trainers.ranks import is_main_process

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_INIT = {"true": True, "false": False}


def adapter_config(
    options: TrainerOptions,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None = None,
    new_tokens: Sequence[int] = (),
) -> LoraConfig | None:
    """The adapter on the text part, and the rows of new and named tokens; None for full fine-tuning.

    Raises:
        BadInput: the options name a module or a token that the base does not have, or what peft cannot train.
    """
    if not (options.use_lora or options.use_qlora):
        return None
    from peft import LoraConfig  # two seconds, which a preview of data does not need

    rows = trained_rows(model, sorted({*new_tokens, *_token_ids(options, tokenizer)}))
    check_adapter(options, model, rows)
    whole = options.lora_modules_to_save
    config = LoraConfig(
        r=options.lora_r,
        lora_alpha=options.lora_alpha,
        lora_dropout=options.lora_dropout,
        target_modules=_targets(options, model),
        target_parameters=joined_experts(options, model) or None,
        exclude_modules=_excluded(options, model),
        modules_to_save=list(whole) or None,
        # A module that is trained whole has all its rows trained.
        trainable_token_indices={each: ids for each, ids in rows.items() if not covers(whole, each)} or None,
        use_rslora=options.use_rslora,
        use_dora=options.use_dora,
        init_lora_weights=_INIT.get(options.lora_init, options.lora_init),
        # A saved embedding and a head that shares its weights must stay one matrix.
        ensure_weight_tying=bool(whole) and _is_tied(model),
        task_type=family_of_model(model).adapter_task,
    )
    adapt_joined_experts(config, model, routers=options.lora_target_modules != (ALL_LINEAR,))
    check_joined_experts(options, config)
    if options.lora_target_modules == (ALL_LINEAR,) and is_main_process():
        print("".join(f"{note}\n" for note in _uncovered_notes(config, model)), end="", flush=True)
    return config


def with_adapter(
    model: PreTrainedModel, options: TrainerOptions, tokenizer: PreTrainedTokenizerBase, new_tokens: Sequence[int]
) -> nn.Module:
    """The model with its adapter, for methods that have one; drawn with the job's seed, as TRL does it."""
    config = adapter_config(options, model, tokenizer, new_tokens)
    if config is None:
        return model
    from peft import get_peft_model  # two seconds, which full fine-tuning does not need
    from transformers import set_seed

    set_seed(options.seed)
    return get_peft_model(model, config)


def _uncovered_notes(config: LoraConfig, model: PreTrainedModel) -> Iterator[str]:
    """Lines on the matrices that peft leaves out of all linear layers, beside head and routers."""
    parameters = tuple(config.target_parameters or ())
    experts = {".".join(name.split(".")[-2:]) for name in joined_names(model) if not covers(parameters, name)}
    if experts:
        named = ", ".join(f"`{name}`" for name in sorted(experts))
        yield f"the experts get no adapter: name them with {TARGET_MODULES.flag} to adapt them too: {named}"
    taken = JOINED.get(getattr(model.config, "model_type", ""), ()) if parameters else ()
    linear = (name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, nn.Linear))
    if outside := sorted(set(taken).intersection(linear)):
        yield f"no adapter on {', '.join(f'`{name}`' for name in outside)} outside of the experts: peft joins the names"


def adapt_joined_experts(config: LoraConfig, model: PreTrainedModel, *, routers: bool) -> None:
    """Adapts as parameters what transformers has made of each layer's experts, for families that peft knows.

    Without `routers` those that it would adapt with them are dropped.

    Raises:
        BadInput: the targets name a part of matrices that transformers has joined.
    """
    from peft.utils.transformers_weight_conversion import (
        convert_peft_config_for_transformers,
        get_model_conversion_mapping,
    )

    try:
        convert_peft_config_for_transformers(config, model, get_model_conversion_mapping(model))
    except ValueError as error:
        hint = "name all of them, such as w1, w2 and w3, or none"
        raise BadInput(f"the experts' matrices are joined: {error}", hint, key=TARGET_MODULES.flag) from None
    if config.target_parameters and not routers:
        names = {each for each in config.target_parameters if not chooses_experts(each.removesuffix(".weight"))}
        config.target_parameters = sorted(names)


def _targets(options: TrainerOptions, model: PreTrainedModel) -> str | list[str]:
    """Peft reads a text as a regular expression of whole names, and a list as names or ends of names."""
    joined = joined_experts(options, model)
    names = [each for each in options.lora_target_modules if each not in joined]
    if len(names) == 1 and is_pattern(names[0]):
        return names[0]
    if any(map(is_pattern, names)):  # in a list, peft would take a pattern for a name
        return "|".join(each if is_pattern(each) else rf"(.*\.)?{re.escape(each)}" for each in names)
    return names


def _excluded(options: TrainerOptions, model: PreTrainedModel) -> str | None:
    return left_out(model) if options.lora_target_modules == (ALL_LINEAR,) else excluded_pattern(model)


def left_out(model: PreTrainedModel) -> str | None:
    """peft's `exclude_modules` for all linear layers of the text part: routers, and what peft cannot adapt."""
    routers = router_names(model)
    if routers and is_main_process():
        kinds = ", ".join(f"`{name}`" for name in dict.fromkeys(each.rpartition(".")[2] for each in routers))
        print(f"the routers of the experts get no adapter: {quantity(len(routers), 'module')} named {kinds}")
    states = _state_projections(model)
    if states and is_main_process():
        kinds = ", ".join(f"`{name}`" for name in dict.fromkeys(each.rpartition(".")[2] for each in states))
        print(f"no adapter on {kinds}, whose weights the state-space layers read themselves")
    names = map(re.escape, [*routers, *states])
    return "|".join(filter(None, [excluded_pattern(model), *names])) or None


def router_names(model: nn.Module) -> list[str]:
    """The modules that choose among the experts of a layer, by name; an adapter on some of them fails."""
    named = [name for name, module in model.named_modules() if _is_matrix(module) and is_router(name)]
    return list(dict.fromkeys([*named, *_beside_experts(model)]))


def _state_projections(model: PreTrainedModel) -> list[str]:
    """The layers whose weights the model reads without calling them: an adapter there would change nothing."""
    ends = family_of_model(model).not_called
    return [name for name, _ in model.named_modules() if name.endswith(ends)]


def _beside_experts(model: nn.Module) -> Iterator[str]:
    for name, block in model.named_modules():
        children = dict(block.named_children())
        beside = (
            (f"{child}.{below}".rstrip("."), module)
            for child, part in children.items()
            if "experts" in children and child != "experts"
            for below, module in part.named_modules()
        )
        yield from (f"{name}.{path}" for path, module in beside if _is_matrix(module) and chooses_experts(path))


def _is_matrix(module: nn.Module) -> bool:
    """Whether it has a matrix of its own: not every router is a `Linear`."""
    weight = dict(module.named_parameters(recurse=False)).get("weight")
    return weight is not None and weight.dim() == 2


def _is_tied(model: PreTrainedModel) -> bool:
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight


def _token_ids(options: TrainerOptions, tokenizer: PreTrainedTokenizerBase | None) -> Iterator[int]:
    if not options.lora_trainable_tokens or tokenizer is None:
        return
    vocabulary = tokenizer.get_vocab()
    for token in options.lora_trainable_tokens:
        if token not in vocabulary:
            raise BadInput(f"the tokenizer has no token `{token}`", TOKENS_HINT, key=TRAINABLE_TOKENS.flag)
        yield vocabulary[token]
