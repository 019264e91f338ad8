"""Loading the base checkpoint: tokenizer, weights in the right precision, quantised or not, and the adapter."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
)

from dimba.common.checkpoint import check_base, check_tokenizer
from dimba.common.checkpoints import asks_for_code
from dimba.common.contract import ENV_ON_CPU_INSTEAD, absolute, is_path, read_json_object
from dimba.common.errors import BadInput, HostCannot
from dimba.options.trainer import TrainerOptions
from dimba.trainers.models.attention_kinds import requested_attention
from dimba.trainers.models.families import auto_class, family_at, half_of
from dimba.trainers.models.gpu_errors import check_gpu
from dimba.trainers.models.pretrained import load, load_complete, load_scored
from dimba.trainers.models.sharding import is_sharded
from dimba.trainers.models.text_part import (
    beyond_context,
    complete_names,
    freeze_other_modules,
)
from dimba.trainers.models.vocabulary import add_rows, added_rows_note, untie, untrained_ends
from dimba.trainers.ranks import is_main_process, local_rank

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


@dataclass(frozen=True)
class Compute:
    """The device, and the precision of mixed-precision training: `mixed` is no, fp16 or bf16."""

    on_cpu: bool
    mixed: str


def choose_compute(device: str, precision: str = "auto", *, samples: bool = False) -> Compute:
    """CUDA if it works, unless `device` is cpu; the requested precision, or accelerate's, or the best supported one.

    `samples`: the job samples completions.

    Raises:
        HostCannot: CUDA is requested and does not work, the GPU does not compute, one process sees several GPUs, or
            Triton has no compiler.
    """
    works = torch.cuda.is_available()
    if device == "cuda" and not works:
        raise HostCannot("--device cuda: CUDA does not work here", "`dimba doctor` shows why; or use `--device cpu`")
    if device == "cpu" or not works:
        return _cpu_compute(precision, samples=samples)
    if "WORLD_SIZE" not in os.environ and torch.cuda.device_count() > 1:
        raise HostCannot(
            f"{torch.cuda.device_count()} GPUs are visible to one process",
            "`accelerate launch --multi_gpu` uses them all; `CUDA_VISIBLE_DEVICES=0` uses one",
        )
    check_compiler()
    check_gpu(torch.device("cuda", local_rank()))
    supported = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    default = os.environ.get("ACCELERATE_MIXED_PRECISION", supported)
    return Compute(on_cpu=False, mixed=default if precision == "auto" else precision)


def check_compiler() -> None:
    """Raises HostCannot if Triton lacks a C compiler: its first kernel would fail only after minutes of data work."""
    if find_spec("triton") is None:
        return
    hint = "`apt-get install gcc python3-dev`; the image that dimba builds has them"
    if not (os.environ.get("CC") or which("gcc") or which("clang")):
        raise HostCannot("no C compiler: Triton needs one to compute the loss", hint)
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if not header.is_file():
        raise HostCannot(f"{header} is missing: Triton needs it to compute the loss", hint)


def _cpu_compute(precision: str, *, samples: bool) -> Compute:
    mixed = _cpu_precision(precision, samples=samples)
    if mixed == "no":
        os.environ["ACCELERATE_MIXED_PRECISION"] = mixed  # accelerate reads it
    return Compute(on_cpu=True, mixed=mixed)


def _cpu_precision(requested: str, *, samples: bool) -> str:
    """float32 ("no") unless bf16 was explicitly requested and the CPU supports it."""
    if requested == "auto":
        # Accelerate's precision was meant for the GPUs that do not work.
        is_fallback = ENV_ON_CPU_INSTEAD in os.environ
        requested = "no" if is_fallback else os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    problem = _cpu_precision_problem(requested, samples=samples)
    if requested == "no" or not problem:
        return requested
    if is_main_process():
        print(f"training in float32 in place of {requested}: {problem}", flush=True)
    return "no"


def _cpu_precision_problem(requested: str, *, samples: bool) -> str:
    if requested == "fp16":
        return "a CPU does not train in fp16"
    if samples:
        return "completions are sampled and scored in float32 on a CPU"
    is_supported = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "" if is_supported else "this CPU has neither avx512_bf16 nor amx"


def load_tokenizer(checkpoint: str, flag: str = "--base-checkpoint", *, code: bool = False) -> PreTrainedTokenizerFast:
    """The checkpoint's tokenizer; with `code` its own code may run. Raises BadInput, which names `flag`."""
    if is_path(checkpoint):
        check_tokenizer(absolute(checkpoint), flag)
    return load(AutoTokenizer, checkpoint, flag, trust_remote_code=code)


def load_context(checkpoint: str, *, code: bool = False) -> int | None:
    """Tokens that the model accepts, from its configuration; None if that has no such number. Raises BadInput."""
    config = load(AutoConfig, checkpoint, trust_remote_code=code).get_text_config()
    context: int | None = getattr(config, "max_position_embeddings", None)
    return context


def load_model(options: TrainerOptions, compute: Compute, *, attention: str = "auto") -> PreTrainedModel:
    """The base: float32 for full fine-tuning and on the CPU; on CUDA under an adapter frozen in bf16, fp16 or nf4."""
    check_checkpoint(options)
    is_frozen = options.method != "full"
    settings = _settings(options, compute, frozen=is_frozen) | _attention(attention, options, compute)
    return _differentiable(load_complete(_class_of(options), options.base_checkpoint, **settings))


def _class_of(options: TrainerOptions) -> Any:
    return auto_class(family_at(options.base_checkpoint))


def check_checkpoint(options: TrainerOptions) -> None:
    """Raises BadInput for a base that cannot be trained, as far as its configuration and the names in its files tell.

    Takes no longer for a large base than for a small one: no weights are read.
    """
    if not is_path(options.base_checkpoint):
        return
    kind = family_at(options.base_checkpoint).kind
    check_base(absolute(options.base_checkpoint), options.method, options.max_length, kind_of=kind)
    config = read_json_object(absolute(options.base_checkpoint) / "config.json")
    is_known = not ("quantization_config" in config or asks_for_code(config) or options.allow_pickle)
    if is_sharded() or not is_known:  # only loading tells: packed weights, code that may need values, pickles
        return
    settings = {"dtype": torch.float32, "trust_remote_code": options.trust_remote_code, "use_safetensors": True}
    load_complete(_class_of(options), options.base_checkpoint, quiet=True, device_map={"": "meta"}, **settings)


def _attention(kind: str, options: TrainerOptions, compute: Compute) -> dict[str, str]:
    return requested_attention(kind, options.method, compute.mixed, on_cpu=compute.on_cpu)


def load_reference(options: TrainerOptions, compute: Compute, *, attention: str = "auto") -> PreTrainedModel:
    """A frozen copy of the base, in the precision of a base under an adapter; raises BadInput."""
    settings = _settings(options, compute, frozen=True) | _attention(attention, options, compute)
    model: PreTrainedModel = load_complete(_class_of(options), options.base_checkpoint, quiet=True, **settings)
    return model.requires_grad_(False)


def prepare_base(
    model: PreTrainedModel, options: TrainerOptions, tokenizer: PreTrainedTokenizerFast, ends: Sequence[str] = ()
) -> list[int]:
    """Fits a base that is trained to rows of text; prints each change, and returns the ids of the rows it added."""
    is_adapter = options.method != "full"
    if not is_adapter:
        _check_loads_again(model, options.base_checkpoint)
    complete_names(model)
    notes = [freeze_other_modules(model), untie(model)]
    notes += [untrained_ends(model, tokenizer, _untouched(options, ends))] if is_adapter else []
    new = add_rows(model, tokenizer)
    notes += [added_rows_note(new, adapter=is_adapter), beyond_context(model, options.max_length)]
    notes += half_of(model).prepare(model, options, tokenizer)
    for note in filter(None, notes if is_main_process() else ()):
        print(note, flush=True)
    return new


def _untouched(options: TrainerOptions, ends: Sequence[str]) -> list[str]:
    """The ends of turns whose rows the adapter does not train."""
    return [] if options.lora_modules_to_save else [end for end in ends if end not in options.lora_trainable_tokens]


def _check_loads_again(model: PreTrainedModel, checkpoint: str) -> None:
    """Raises BadInput for a text part, as Mllama's, whose own configuration AutoModelForCausalLM would not load."""
    if type(model).__module__.startswith("transformers.") and type(model.config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        problem = f"the text part ({type(model).__name__}) of {checkpoint} would be saved, but not load again"
        raise BadInput(problem, "train an adapter, with `method: lora` (--use-lora)", key="--base-checkpoint")


def _differentiable(model: PreTrainedModel) -> PreTrainedModel:
    """Keeps bitsandbytes from packing 4-bit weights for a CPU at the first forward pass without gradients.

    It does not unpack them for training, and the kernel that then runs has no backward pass: gradients were silently
    lost (0.50.2, on CPUs with AVX512-BF16).
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def load_classifier(
    checkpoint: str, options: TrainerOptions, compute: Compute, flag: str = "--base-checkpoint"
) -> PreTrainedModel:
    """A frozen model with one output: a base under a new head, or with `--reward-model` one that has its head.

    Raises:
        BadInput: it cannot be loaded, its family has no classifier, or a reward model has no head with one output.
    """
    from trl.trainer.reward_trainer import suppress_seqcls_warning  # seconds, which a preview of data does not need

    is_reward_model = flag == "--reward-model"
    settings = _settings(options, compute, frozen=True) | {"num_labels": 1}
    with nullcontext() if is_reward_model else suppress_seqcls_warning():  # also hides that a head is missing
        kind = AutoModelForSequenceClassification
        return _differentiable(load_scored(kind, checkpoint, flag, has_head=is_reward_model, **settings))


def _settings(options: TrainerOptions, compute: Compute, *, frozen: bool) -> dict[str, Any]:
    reduced = torch.float16 if compute.mixed == "fp16" else torch.bfloat16
    # Trained weights stay in float32: master weights in bf16 drift from the first steps on.
    dtype = reduced if frozen and not compute.on_cpu else torch.float32
    settings: dict[str, Any] = {
        "dtype": dtype,
        "use_safetensors": None if options.allow_pickle else True,  # None prefers safetensors
        "trust_remote_code": options.trust_remote_code,
    }
    if options.use_qlora:
        settings |= {"quantization_config": nf4(dtype)}
    if options.use_qlora or not (compute.on_cpu or is_sharded()):
        settings["device_map"] = device_map(compute)  # not by way of host memory, which has no room for every rank's
    return settings


def nf4(dtype: torch.dtype) -> BitsAndBytesConfig:
    """The quantisation of a Q-LoRA base."""
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def device_map(compute: Compute) -> dict[str, str | int]:
    """transformers' `device_map` for a model that is wholly on this process's device."""
    return {"": "cpu" if compute.on_cpu else local_rank()}


def reference_settings(options: TrainerOptions, compute: Compute) -> dict[str, Any] | None:
    """`model_init_kwargs` for a reference that TRL loads: as `load_reference`; None on a CPU.

    TRL's own are the precision of the trained model, and a place in host memory for what a GPU has no room for.
    """
    return None if compute.on_cpu else _settings(options, compute, frozen=True) | {"device_map": device_map(compute)}
