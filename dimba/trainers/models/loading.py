"""Loading the base checkpoint: tokenizer, weights in the right precision, quantised or not, and the adapter."""

from __future__ import annotations

import json
import os
import sysconfig
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BitsAndBytesConfig,
)
from transformers.utils import cached_file

from dimba.common.checkpoint import check_base, check_tokenizer
from dimba.common.checkpoints import CONFIGS, asks_for_code
from dimba.common.contract import ENV_ON_CPU_INSTEAD, RUN_ITS_CODE, absolute, is_path
from dimba.common.errors import BadInput, HostCannot
from dimba.options.trainer import TrainerOptions
from dimba.trainers.ranks import is_main_process

if TYPE_CHECKING:
    from peft import LoraConfig
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
        HostCannot: CUDA is requested and does not work, one process sees several GPUs, or Triton has no compiler.
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
    return _load(AutoTokenizer, checkpoint, flag, trust_remote_code=code)


def load_context(checkpoint: str, *, code: bool = False) -> int | None:
    """Tokens that the model accepts, from its configuration; None if that has no such number. Raises BadInput."""
    config = _load(AutoConfig, checkpoint, trust_remote_code=code).get_text_config()
    context: int | None = getattr(config, "max_position_embeddings", None)
    return context


def load_model(options: TrainerOptions, compute: Compute, *, attention: str = "auto") -> PreTrainedModel:
    """The base: float32 for full fine-tuning and on the CPU; on CUDA under an adapter frozen in bf16, fp16 or nf4."""
    if is_path(options.base_checkpoint):
        check_base(absolute(options.base_checkpoint), options.method, options.max_length)
    is_frozen = options.method != "full"
    settings = _settings(options, compute, frozen=is_frozen) | _attention(attention, compute)
    return _differentiable(_load(AutoModelForCausalLM, options.base_checkpoint, **settings))


def load_reference(options: TrainerOptions, compute: Compute, *, attention: str = "auto") -> PreTrainedModel:
    """A frozen copy of the base, in the precision of a base under an adapter; raises BadInput."""
    settings = _settings(options, compute, frozen=True) | _attention(attention, compute)
    model: PreTrainedModel = _load(AutoModelForCausalLM, options.base_checkpoint, **settings)
    return model.requires_grad_(False)


def _attention(kind: str, compute: Compute) -> dict[str, str]:
    if kind in ("auto", "documents"):  # chosen once the model is loaded (`choose_collator`)
        return {}
    if kind == "flash_attention_2" and (compute.on_cpu or find_spec("flash_attn") is None):
        problem = "it is for CUDA" if compute.on_cpu else "flash-attn is not installed"
        raise BadInput(problem, "leave out --attention, or use `--attention sdpa`", key=f"--attention {kind}")
    return {"attn_implementation": kind}


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
    settings = _settings(options, compute, frozen=True) | {"num_labels": 1, "ignore_mismatched_sizes": True}
    with nullcontext() if is_reward_model else suppress_seqcls_warning():  # also hides that a head is missing
        model, info = _load(AutoModelForSequenceClassification, checkpoint, flag, output_loading_info=True, **settings)
    if is_reward_model:
        _check_head(checkpoint, info)
    return _differentiable(model)


def _check_head(checkpoint: str, info: Mapping[str, Any]) -> None:
    # Weights that the files lack are random.
    hint = "give a trained reward model, or leave out --reward-model to train one on the pairs"
    if others := sorted(info["mismatched_keys"]):
        name, shape, _ = others[0]
        sizes = "×".join(map(str, shape))
        raise BadInput(f"{checkpoint}: `{name}` is {sizes}; a reward model has one output", hint, key="--reward-model")
    if missing := sorted(info["missing_keys"]):
        raise BadInput(
            f"{checkpoint} has no reward head: `{missing[0]}` is not in its files", hint, key="--reward-model"
        )


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
        settings |= {"quantization_config": _nf4(dtype), "device_map": {"": _device(compute)}}
    return settings


def adapter_config(options: TrainerOptions) -> LoraConfig | None:
    """LoRA on every linear layer; None for full fine-tuning."""
    if not (options.use_lora or options.use_qlora):
        return None
    from peft import LoraConfig  # two seconds, which a preview of data does not need

    return LoraConfig(
        r=options.lora_r, lora_alpha=options.lora_alpha, target_modules="all-linear", task_type="CAUSAL_LM"
    )


def _nf4(dtype: torch.dtype) -> BitsAndBytesConfig:
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def _device(compute: Compute) -> str | int:
    return "cpu" if compute.on_cpu else int(os.environ.get("LOCAL_RANK", "0"))


def _load(kind: Any, checkpoint: str, flag: str = "--base-checkpoint", **settings: Any) -> Any:
    """`kind.from_pretrained(checkpoint)`; raises BadInput, which names `flag`."""
    if is_path(checkpoint):
        checkpoint = _local_checkpoint(Path(checkpoint).expanduser(), flag)
    try:
        if not settings["trust_remote_code"]:
            _refuse_code(checkpoint, flag)
        return kind.from_pretrained(checkpoint, **settings)
    except (OSError, ValueError) as error:
        hint = "check the folder's files; a Hub id needs the network, a private one HF_TOKEN"
        if "safetensors" in str(error):
            hint = "convert it with `save_pretrained`; or `--allow-pickle`, if you trust its author"
        raise BadInput(f"{checkpoint}: {str(error).strip().splitlines()[0]}", hint, key=flag) from error


def _local_checkpoint(path: Path, flag: str) -> str:
    if not (path / "config.json").is_file():
        problem = "has no config.json" if path.is_dir() else "is not a folder" if path.exists() else "does not exist"
        raise BadInput(f"{path} {problem}", "give a folder in Hugging Face format, or a Hub id", key=flag)
    return str(absolute(path))  # an adapter records it as its base


def _refuse_code(checkpoint: str, flag: str) -> None:
    """Raises BadInput for a checkpoint with code of its own; transformers would ask on a terminal."""
    for name in CONFIGS:
        found = cached_file(
            checkpoint,
            name,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            _raise_exceptions_for_gated_repo=False,
        )
        if found and asks_for_code(json.loads(Path(found).read_text(encoding="utf-8"))):
            raise BadInput(f"{checkpoint} brings code of its own ({name} asks for it)", RUN_ITS_CODE, key=flag)
