"""Whether packed rows train like separate ones with every attention that there is, their times, and the choice."""

from typing import Any

import torch
import transformers
from huggingface_hub import constants
from transformers import AutoModelForCausalLM, PreTrainedModel

from dimba.trainers.data.gradient_probe import probe_attention
from dimba.trainers.data.packing_probe import ProbeResult, probe_packing
from dimba.trainers.kernels.attending import attention_of
from dimba.trainers.kernels.attention import Work, candidates, choose_attention, option_name
from scripts.gpu.context import Context, Found
from scripts.gpu.jobs import base
from scripts.gpu.results import ABSENT, RIGHT, WRONG, Result

_SHAPE: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "sliding_window": 64,
}
# What a kernel has to honour beside documents: grouped heads; a window; soft caps and a window; sinks and a window.
_FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": {name: value for name, value in _SHAPE.items() if name != "sliding_window"},
    "Mistral": _SHAPE,
    "Gemma2": _SHAPE,
    "GptOss": {**_SHAPE, "num_local_experts": 4, "num_experts_per_tok": 2},
}
_MASKED = ("eager", "sdpa", "flex_attention")  # these find documents in a mask alone
_REFUSED = "the model does not"  # the beginning of what a probe reports where a kernel raises


def attention(context: Context) -> Found:
    """Per token and in its gradients, packed against apart: first the choice for a model, then kernels by family."""
    yield from _choices(context)
    # flex_attention comes last: it is compiled for each family.
    known = sorted((*candidates("sdpa", torch.device(context.device)), "eager"), key="flex_attention".__eq__)
    for name in known:
        for mixed in _precisions(context, name):
            for family, shape in _FAMILIES.items():
                yield _proved(context, name, family, shape, mixed)


def _precisions(context: Context, name: str) -> tuple[str, ...]:
    """The mixed precisions to try an attention in: `no` is float32."""
    if context.device == "cpu":
        return ("no",)
    return ("bf16",) if name == "flex_attention" else ("bf16", "fp16", "no")


def _choices(context: Context) -> Found:
    """The trainer's own choice for documents of two lengths, with the times of all."""
    kept, constants.HF_HOME = constants.HF_HOME, str(context.folder / "home")  # times of another day are no answer
    try:
        for length in (16,) if context.tiny else (256, 2048):
            yield _choice(context, length)
    finally:
        constants.HF_HOME = kept


def _choice(context: Context, length: int) -> Result:
    model = AutoModelForCausalLM.from_pretrained(base(context), dtype=torch.float32).to(context.device)
    work = _work(context, length, _precisions(context, "")[0])
    choice = choose_attention(model, work)
    measured = {f"{option_name(name)}_ms": seconds * 1e3 for name, seconds in choice.timings.seconds.items()}
    # On a GPU a mask over all pairs must not be needed for a plain model.
    is_right = choice.name is not None and (context.device == "cpu" or choice.name != "sdpa")
    detail = f"{option_name(choice.name or 'none')}: {choice.reason}"
    return context.result(f"choice {length}", RIGHT if is_right else WRONG, detail, **measured)


def _work(context: Context, length: int, mixed: str) -> Work:
    longest = length if context.tiny else 2048
    return Work(device=torch.device(context.device), mixed=mixed, rows=8, length=length, longest=longest)


def _proved(context: Context, name: str, family: str, shape: dict[str, Any], mixed: str) -> Result:
    case = f"{option_name(name)} {family} {'float32' if mixed == 'no' else mixed}"
    try:
        with _work(context, 16, mixed).autocast():
            found = _probed(name, _model(context, family, shape))
    except (ImportError, ValueError) as error:  # the family has no such attention
        return context.result(case, ABSENT, str(error).splitlines()[0][:120])
    outcome = RIGHT if found.is_exact else ABSENT if found.reason.startswith(_REFUSED) else WRONG
    if family == "GptOss" and name in _MASKED and outcome != ABSENT:
        outcome = WRONG if found.is_exact else RIGHT  # its mask knows no documents, and the probe must find that
    return context.result(case, outcome, found.reason, difference=found.difference)


def _model(context: Context, family: str, shape: dict[str, Any]) -> PreTrainedModel:
    """A random model with weights so large that a leak between documents changes the losses visibly."""
    config = getattr(transformers, f"{family}Config")(**shape)
    torch.manual_seed(0)
    model: PreTrainedModel = getattr(transformers, f"{family}ForCausalLM")(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(4)
    return model.to(context.device)


def _probed(name: str, model: PreTrainedModel) -> ProbeResult:
    return probe_packing(model) if name == attention_of(model) else probe_attention(model, name)
