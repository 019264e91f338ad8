"""The families of models: the one list of model types that are not treated as all others are."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dimba.common.checkpoint import Checkpoint, Kind, Refusal
from dimba.common.contract import read_json_object
from dimba.objectives.family import Family, Lifted, RefusedOption
from dimba.objectives.objective import MemoryTerms
from dimba.options.diffusion_table import (
    BLOCK_LENGTH,
    DIFFUSION_STEPS,
    END_TAIL,
    GUIDANCE,
    MASK_DRAWS,
    MASK_TOKEN,
    P_MASK_PROMPT,
)
from dimba.options.dpo_table import PAIR_LOSS
from dimba.options.grpo_table import LOSS_TYPE, SAMPLER, SAMPLER_GPUS, USE_VLLM, WD1
from dimba.options.speed_table import ATTENTION, COMPILE, FLOAT8, KERNELS, SEQUENCE_PARALLEL

_NO_MASKS = Refusal("the base is a causal language model, in whose rows nothing is masked", "leave it out")
_EXACT = Refusal(
    "wd1 is for models whose likelihoods are estimates, and a causal model's ratios are exact", "leave it out"
)
_OF_MASKS = (MASK_TOKEN, END_TAIL, MASK_DRAWS, BLOCK_LENGTH, DIFFUSION_STEPS, GUIDANCE, P_MASK_PROMPT)
CAUSAL = Family(
    label="a causal language model",
    half="causal",
    options=(
        *(RefusedOption(param=each, refusal=_NO_MASKS) for each in _OF_MASKS),
        RefusedOption(param=LOSS_TYPE, refusal=_EXACT, values=(WD1,)),
    ),
)
# Their code reads these weights itself, so that an adapter there changes nothing; peft refuses the first two of Mamba.
MAMBA = replace(
    CAUSAL,
    model_types=("falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h"),
    not_called=(".out_proj", ".conv1d", ".dt_proj"),
)
JAMBA = replace(CAUSAL, model_types=("jamba",), not_called=(".dt_proj",))

MASK_KEY = "mask_token_id"  # of config.json
_PLACES = ("tokenizer_config.json", "special_tokens_map.json")  # where a tokenizer names its `mask_token`


def _own_kind(config: Mapping[str, Any]) -> Kind:
    """The kind of a model whose classes come with dimba."""
    return Kind(architecture=_architecture(config), refusal=_mask_refusal(config))


def _mask_refusal(config: Mapping[str, Any]) -> Refusal | None:
    """The refusal of a mask token that config.json itself contradicts."""
    number, count = config.get(MASK_KEY), config.get("vocab_size")
    if number is None:
        return None
    is_token = type(number) is int and number >= 0 and not (type(count) is int and number >= count)
    roles = [name for name in ("eos_token_id", "bos_token_id") if config.get(name) == number]
    if is_token and not roles:
        return None
    tokens = f" of {count:,}" if type(count) is int else ""
    which = f"is its `{roles[0]}` too, which rows contain" if is_token else f"is no token{tokens}"
    hint = f"correct `{MASK_KEY}` in config.json, or copy config.json of the same checkpoint there"
    return Refusal(f"has `{MASK_KEY}: {json.dumps(number)}` in config.json, which {which}", hint)


def _code_kind(config: Mapping[str, Any]) -> Kind:
    """The kind of a model that transformers loads by code of the checkpoint's own alone."""
    mapped = config.get("auto_map")
    if isinstance(mapped, Mapping) and MASKED_BY_CODE.auto_class in mapped:
        return Kind(architecture=_architecture(config), refusal=_mask_refusal(config))
    problem = (
        f"is {MASKED_BY_CODE.label} without its code: `auto_map` in config.json has no {MASKED_BY_CODE.auto_class}"
    )
    hint = "copy config.json and the .py files of the checkpoint as its author publishes it"
    return Kind(architecture=_architecture(config), refusal=Refusal(problem, hint))


def _architecture(config: Mapping[str, Any]) -> str:
    names = config.get("architectures")
    return str(names[0]) if isinstance(names, list) and names else ""


def _without_mask(checkpoint: Checkpoint) -> Lifted | None:
    """The refusal of a base that names no token which stands for a masked one."""
    if isinstance(checkpoint.config.get(MASK_KEY), int):
        return None
    if any(read_json_object(checkpoint.folder / name).get("mask_token") for name in _PLACES):
        return None
    problem = f"names no mask token: config.json has no `{MASK_KEY}`, and {' and '.join(_PLACES)} no `mask_token`"
    hint = f"name it with `trainer_args: {{{MASK_TOKEN.name}: …}}` ({MASK_TOKEN.flag})"
    return Lifted(refusal=Refusal(problem, hint), by=MASK_TOKEN)


def _scored_at_once(terms: MemoryTerms) -> MemoryTerms:
    """Any token may be masked: all may go through the head, a row is there with all its masks, no key is cached."""
    return replace(terms, masked=True, tiled=False, cached=False, sequences=terms.sequences * terms.draws)


_PADDED = Refusal("it is for packed rows, and rows of masked diffusion are padded", "leave it out")
_WHOLE = Refusal("rows of masked diffusion are not divided", "leave it out, or lower `training.max_length`")
_UNPROVED = Refusal("it is not proved to train masked diffusion as the model's own layers do", "leave it out")
_SQUARED = Refusal(
    "it squares the log-likelihood of an answer, which is estimated here, and would train the estimate's variance too",
    "use `sigmoid`, or `ipo`, which squares a mean over the answer's tokens",
)
_SHARP = Refusal(
    "its curve bends within 0.05 of a margin of 0, and a margin that is estimated from masks is less certain than that",
    "use `sigmoid`",
)
_OWN_SAMPLER = Refusal(
    "completions of masked diffusion are filled in by blocks of masked tokens, by its own sampler", "leave it out"
)
_UNSERVED = Refusal(
    "is a masked-diffusion language model: it fills in tokens in any order, which OpenAI's interface does not fit",
    "ask it with `dimba chat` or `dimba generate`",
)
_NO_GGUF = Refusal(
    "is a masked-diffusion language model, which llama.cpp does not run", "export it with `--merged`, for transformers"
)
_NO_TASKS = Refusal(
    "is a masked-diffusion language model: tasks compare likelihoods, of which it has an upper bound alone",
    "measure its answers: `--reward numeric`",
)
_NO_SCORE = Refusal(
    "cannot become a reward model, whose score is that of a row's last token",
    "give a trained one with `--reward-model` (`trainer_args.reward-model`), or another reward",
)
_BOUND = "bound: an upper bound on the loss, from the same masks of each row for every model"
_MASKED = Family(
    label="a masked-diffusion language model",
    half="masked_diffusion",
    objectives=("sft", "dpo", "grpo"),
    lifted=_without_mask,
    adapter_task=None,
    note="masked diffusion: the trained tokens may be masked, those of one answer at a time; the prompt never is",
    packs=False,
    divides=False,
    options=(
        RefusedOption(param=ATTENTION, refusal=_PADDED, values=("documents", "varlen", "flex_attention")),
        RefusedOption(param=SEQUENCE_PARALLEL, refusal=_WHOLE),
        RefusedOption(param=KERNELS, refusal=_UNPROVED, values=("liger",)),
        RefusedOption(param=COMPILE, refusal=_UNPROVED, values=("on",)),
        RefusedOption(param=FLOAT8, refusal=_UNPROVED, values=(True,)),
        RefusedOption(param=PAIR_LOSS, refusal=_SQUARED, values=("sppo_hard",)),
        RefusedOption(param=PAIR_LOSS, refusal=_SHARP, values=("discopop",)),
        *(RefusedOption(param=each, refusal=_OWN_SAMPLER) for each in (SAMPLER, SAMPLER_GPUS)),
        RefusedOption(param=USE_VLLM, refusal=_OWN_SAMPLER, values=(True,)),
    ),
    predicts_next=False,
    generates=False,
    sampling=("diffusion_steps", "block_length", "guidance"),
    loss="bound",
    loss_note=_BOUND,
    tasks=_NO_TASKS,
    reward_model=_NO_SCORE,
    served=_UNSERVED,
    gguf=_NO_GGUF,
    memory=_scored_at_once,
)
# Gu's and Dao's mixer in both directions, conditioned on t: its states run over the borders of packed rows.
DIMBA = replace(
    _MASKED,
    model_types=("dimba",),
    kind=_own_kind,
    auto_class="AutoModelForMaskedLM",
    registers="dimba.models.dimba",
    not_called=(".conv1d",),
    not_quantised=(".out_proj", ".modulation"),  # of a class that bitsandbytes leaves alone
    rounding=1e-4,  # exponentials over the row: nano with random weights has 4e-7, and trained ones are not measured
    takes_time=True,
)
MASKED_BY_CODE = replace(_MASKED, model_types=("llada",), kind=_code_kind, auto_class="AutoModel", by_code=True)
# Made from a causal model: its head still predicts the next token.
DREAM = replace(MASKED_BY_CODE, model_types=("Dream",), predicts_next=True, masks_pairs=True)

FAMILIES = (MAMBA, JAMBA, DIMBA, MASKED_BY_CODE, DREAM)


def family_of(config: Mapping[str, Any]) -> Family:
    """The family of the model that config.json describes."""
    model_type = str(config.get("model_type") or "")
    return next((each for each in FAMILIES if model_type in each.model_types), CAUSAL)
