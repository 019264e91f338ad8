"""Parameters of the adapter beside its rank and scale: which weights it covers, and how it starts."""

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from functools import partial

from dimba.options.kinds import Number, OneOf, Switch
from dimba.options.param import Param

_lora = partial(Param, group="method")

ALL_LINEAR = "all-linear"
# Peft's other values compute the adapter from the base and change the base with it, or need data first.
INITS = ("true", "false", "gaussian", "orthogonal")

DROPOUT = _lora(
    key="lora.dropout",
    flags=("--lora-dropout",),
    aliases=("--lora-dropout",),
    kind=Number(least=0, most=0.99),
    default=0.0,
    metavar="SHARE",
    help="share of the adapter's inputs that is dropped while training",
    question="LoRA dropout",
)
TARGET_MODULES = _lora(
    key="lora.target_modules",
    flags=("--lora-target-modules", "--target-modules"),
    aliases=("--lora-target-modules", "--target-modules"),
    several=True,
    default=[ALL_LINEAR],
    metavar="NAME",
    help=f"matrices that get an adapter: names, a regular expression of whole names, or {ALL_LINEAR}",
    question="LoRA target modules",
)
MODULES_TO_SAVE = _lora(
    key="lora.modules_to_save",
    flags=("--lora-modules-to-save", "--modules-to-save"),
    aliases=("--lora-modules-to-save", "--modules-to-save"),
    several=True,
    default=[],
    metavar="NAME",
    help="modules that are trained whole and saved with the adapter, such as embed_tokens lm_head",
    question="Modules trained whole",
)
TRAINABLE_TOKENS = _lora(
    key="lora.trainable_tokens",
    flags=("--lora-trainable-tokens", "--trainable-tokens"),
    aliases=("--lora-trainable-tokens", "--trainable-tokens"),
    several=True,
    default=[],
    metavar="TOKEN",
    help="tokens whose rows of the embedding are trained too, such as <|im_end|>",
    question="Trainable tokens",
)
TOKENS_HINT = "give a token as it stands in tokenizer.json: its special tokens are under `added_tokens`"
USE_RSLORA = _lora(
    key="lora.use_rslora",
    flags=("--use-rslora",),
    aliases=("--use-rslora",),
    kind=Switch(),
    default=False,
    help="scale the adapter by alpha / √r instead of alpha / r",
    question="rsLoRA",
)
USE_DORA = _lora(
    key="lora.use_dora",
    flags=("--use-dora",),
    aliases=("--use-dora",),
    kind=Switch(),
    default=False,
    help="train the magnitude of each matrix apart from its direction (DoRA)",
    question="DoRA",
)
INIT = _lora(
    key="lora.init",
    flags=("--lora-init",),
    aliases=("--lora-init", "--init-lora-weights"),
    kind=OneOf(INITS),
    default="true",
    help="start of the adapter, as peft names it; true: the adapter changes nothing before the first step",
    question="LoRA start",
)
_MEANS_ALL = ("all-linear", "all", "all-linears", "linear", "alllinear", "auto", "*")  # in other tools
_SHOWN = 12  # names in a hint
NOT_QUANTISED = ("orthogonal",)  # starts that peft computes from weights in 16 or 32 bits
ON_EXPERTS_HINT = "name other `target_modules`, such as [q_proj, k_proj, v_proj, o_proj]"
# Names that experts have in the files and peft takes for those of the joined parameters, in families that it knows.
EXPERT_MATRICES = ("w1", "w2", "w3", "gate_proj", "up_proj", "down_proj")
START_HINT = "use `init: true` or `gaussian`, or `method: lora`"
PARAMS = (DROPOUT, TARGET_MODULES, MODULES_TO_SAVE, TRAINABLE_TOKENS, USE_RSLORA, USE_DORA, INIT)


def is_pattern(target: str) -> bool:
    """Whether a target module is a regular expression of whole names, rather than a name or the end of one."""
    return target == ALL_LINEAR or re.fullmatch(r"[\w.]+", target) is None


def covered(targets: Iterable[str], names: Iterable[str], prefixes: Sequence[str] = ("",)) -> list[str]:
    """Those of the modules `names` that a target covers, as peft decides it; a pattern may count with a prefix."""
    wanted = [each for each in targets if each != ALL_LINEAR]
    ends = tuple(f".{each}" for each in wanted if not is_pattern(each))
    fits = [re.compile(each).fullmatch for each in wanted if is_pattern(each)]
    return [
        name
        for name in names
        if f".{name}".endswith(ends) or any(fit(prefix + name) for fit in fits for prefix in prefixes)
    ]


def covers(targets: Iterable[str], module: str) -> bool:
    """Whether one of the targets covers the module of this name."""
    return bool(covered(targets, [module]))


def name_hint(name: str, known: Sequence[str], param: Param) -> str:
    """The way out for a name that no module of the base has."""
    if "," in name:
        names = (each.strip(" '\"[]") for each in name.split(","))
        return f"several names are a list: `[{', '.join(filter(None, names))}]`"
    if param is TARGET_MODULES and name.lower().replace("_", "-") in _MEANS_ALL:
        return f"did you mean `{ALL_LINEAR}`?"
    close = get_close_matches(name, known, n=1)
    return f"did you mean `{close[0]}`?" if close else f"it has {', '.join(known[:_SHOWN])}"


def target_problem(targets: Sequence[str]) -> tuple[str, str] | None:
    """The reason and the way out for target modules that no base could have."""
    for each in targets:
        try:
            re.compile(each if is_pattern(each) else "")
        except re.error as error:
            return f"`{each}` is no regular expression: {error}", r"write it as Python does, such as .*\.q_proj"
    if ALL_LINEAR in targets and len(targets) > 1:
        return f"`{ALL_LINEAR}` stands alone", "name all modules, or add the others to `modules_to_save`"
    return None


def rank_problem(init: str, rank: int) -> tuple[str, str] | None:
    """The reason and the way out for a rank that the start does not allow."""
    if init == "orthogonal" and rank % 2:
        return f"orthogonal needs an even rank, not {rank}", f"set `lora.r` to {rank + 1}"
    return None
