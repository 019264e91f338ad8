"""What an adapter cannot cover, refused with the reason before peft or TRL would raise an error of their own."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from torch import nn

from dimba.common.errors import BadInput
from dimba.options.lora_table import (
    ALL_LINEAR,
    DROPOUT,
    EXPERT_MATRICES,
    INIT,
    MODULES_TO_SAVE,
    NOT_QUANTISED,
    ON_EXPERTS_HINT,
    START_HINT,
    TARGET_MODULES,
    USE_DORA,
    covered,
    covers,
    is_pattern,
    name_hint,
    rank_problem,
    target_problem,
)
from dimba.options.trainer import TrainerOptions
from dimba.trainers.models.families import family_of_model
from dimba.trainers.models.text_part import other_modules

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel

_SHOWN = 12  # names in a hint
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
Rows = Mapping[str, Sequence[int]]  # tokens by the name of the layer whose rows are trained


def check_adapter(options: TrainerOptions, model: PreTrainedModel, rows: Rows) -> None:
    """Raises BadInput for options of the adapter that the base or peft does not allow."""
    if options.use_qlora and options.lora_init in NOT_QUANTISED:
        raise BadInput(f"{options.lora_init} needs a base that is not quantised", START_HINT, key=INIT.flag)
    for problem, hint in filter(None, (rank_problem(options.lora_init, options.lora_r),)):
        raise BadInput(problem, hint, key=INIT.flag)
    for problem, hint in filter(None, (target_problem(options.lora_target_modules),)):
        raise BadInput(problem, hint, key=TARGET_MODULES.flag)
    _check_names(options, model)
    _check_saved(options, model)
    if ALL_LINEAR not in options.lora_target_modules:
        _check_targets(options, model, rows)


def _check_names(options: TrainerOptions, model: PreTrainedModel) -> None:
    names = [name for name, _ in model.named_modules() if name]
    joined = [*joined_experts(options, model), *(EXPERT_MATRICES if any(joined_names(model)) else ())]
    targets = [each for each in options.lora_target_modules if each != ALL_LINEAR and each not in joined]
    for param, wanted in ((TARGET_MODULES, targets), (MODULES_TO_SAVE, options.lora_modules_to_save)):
        for each in wanted:
            if not covered([each], names):
                hint = name_hint(each, _last_parts(names), param)
                raise BadInput(f"no module of the base is named `{each}`", hint, key=param.flag)


def _last_parts(names: Sequence[str]) -> list[str]:
    return [name for name in dict.fromkeys(each.rpartition(".")[2] for each in names) if not name.isdecimal()]


def joined_experts(options: TrainerOptions, model: nn.Module) -> list[str]:
    """The target modules that name a tensor of joined experts, which is a parameter and no module."""
    names = list(joined_names(model))
    return [
        each
        for each in options.lora_target_modules
        if not is_pattern(each) and any(covers([each], name) for name in names)
    ]


def joined_names(model: nn.Module) -> Iterator[str]:
    """The names of the tensors that hold a matrix of each of a layer's experts."""
    for name, module in model.named_modules():
        if isinstance(module, _CONVOLUTIONS):
            continue
        for own, each in module.named_parameters(recurse=False):
            if each.dim() == 3:
                yield f"{name}.{own}"


def _check_saved(options: TrainerOptions, model: nn.Module) -> None:
    """Packed weights cannot be trained whole."""
    for name, module in model.named_modules():
        packed = [each for each in module.parameters() if not each.is_floating_point()]
        if name and packed and covers(options.lora_modules_to_save, name):
            hint = f"leave `{name.rpartition('.')[2]}` out: the adapter covers it; or use `method: lora`"
            raise BadInput(f"`{name}` is quantised, and cannot be trained whole", hint, key=MODULES_TO_SAVE.flag)


def _check_targets(options: TrainerOptions, model: PreTrainedModel, rows: Rows) -> None:
    wanted, whole = options.lora_target_modules, options.lora_modules_to_save
    modules = {name: module for name, module in model.named_modules() if name and covers(wanted, name)}
    text = {name: module for name, module in modules.items() if not _is_within(name, other_modules(model))}
    if modules and not text:
        hint = "name modules of its text part"
        raise _refused(f"rows of text do not reach `{next(iter(modules))}`", hint)
    for name, module in text.items():
        if module is model.get_output_embeddings():
            hint = f"`lora: {{modules_to_save: [{name.rpartition('.')[2]}]}}` trains it whole"
            raise _refused(f"`{name}` gets no adapter: the loss reads its weights themselves", hint)
        if name.endswith(family_of_model(model).not_called):
            raise _refused(
                f"`{name}` gets no adapter: the state-space layers read its weights themselves", _matrices_hint(model)
            )
        if problem := _unsuitable(module):
            raise _refused(f"`{name}` {problem}", _matrices_hint(model))
        if name in rows and not covers(whole, name):
            hint = f"leave `{name.rpartition('.')[2]}` out of the target modules: its new or named rows are trained"
            raise _refused(f"`{name}` cannot have both an adapter and rows of tokens that are trained", hint)
    if text and all(covers(whole, name) for name in text) and not joined_experts(options, model):
        raise _refused("all target modules are in modules_to_save: no adapter is left", "name others, or train in full")


def _refused(problem: str, hint: str) -> BadInput:
    return BadInput(problem, hint, key=TARGET_MODULES.flag)


def _is_within(name: str, parts: Iterable[str]) -> bool:
    return any(f"{name}.".startswith(f"{part}.") for part in parts)


def _unsuitable(module: nn.Module) -> str:
    """The reason why a module is no matrix; empty for a matrix, packed or not, a convolution and joined attention."""
    own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    if not own:
        held = [name for name, _ in module.named_children()]
        return f"holds {', '.join(held[:_SHOWN])}: name those" if held else "has no weights"
    weight = dict(own).get("weight")
    if weight is None and not isinstance(module, nn.MultiheadAttention):
        return "is no matrix" if all(each.is_floating_point() for _, each in own) else ""
    if weight is None or not weight.is_floating_point() or weight.dim() == 2 or isinstance(module, _CONVOLUTIONS):
        return ""
    return "is no matrix" if weight.dim() < 2 else "holds the experts of a layer: name its `.weight` too"


def _matrices_hint(model: nn.Module) -> str:
    head = model.get_output_embeddings()
    linear = ((name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear))
    names = (name for name, module in linear if module is not head)
    last: Collection[str] = dict.fromkeys(name.rpartition(".")[2] for name in names)
    return f"its matrices: {', '.join(list(last)[:_SHOWN])}"


def check_joined_experts(options: TrainerOptions, config: LoraConfig) -> None:
    """Raises BadInput for what peft cannot do on experts that are one parameter."""
    refused = {
        DROPOUT.flag: bool(options.lora_dropout),
        USE_DORA.flag: options.use_dora,
        INIT.flag: options.lora_init in NOT_QUANTISED,
    }
    if config.target_parameters:
        for flag in (flag for flag, is_asked in refused.items() if is_asked):
            raise BadInput("not on joined experts, which peft adapts as one parameter", ON_EXPERTS_HINT, key=flag)
