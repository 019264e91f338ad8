"""Loading the base: tokenizer, weights in the right precision, quantised or not, and the adapter on top."""

import json
import os
import sysconfig
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import Any

from dimba.common.checkpoints import CONFIGS, names_code
from dimba.common.contract import RUN_ITS_CODE, absolute, names_a_path
from dimba.common.errors import BadInput, HostCannot
from dimba.options.trainer import TrainerOptions
from dimba.supervisor.entry import ON_CPU_INSTEAD
from dimba.trainers.command import is_first_rank


@dataclass(frozen=True)
class Compute:
    """On what, and in which precision: `mixed` is no, fp16 or bf16."""

    on_cpu: bool
    mixed: str


def choose_compute(device: str, precision: str = "auto", *, samples: bool = False) -> Compute:
    """CUDA where it works and is not declined; the precision asked for, or `accelerate launch` told, else what fits."""
    import torch

    works = torch.cuda.is_available()
    if device == "cuda" and not works:
        raise HostCannot("--device cuda: CUDA does not work here", "`--device cpu`, or `dimba doctor` to see why")
    on_cpu = device == "cpu" or not works
    if on_cpu:
        mixed = _cpu_precision(precision, samples=samples)
        if mixed == "no":
            os.environ["ACCELERATE_MIXED_PRECISION"] = mixed  # it would be what accelerate goes by
        return Compute(on_cpu=True, mixed=mixed)
    if "WORLD_SIZE" not in os.environ and torch.cuda.device_count() > 1:
        raise HostCannot(
            f"{torch.cuda.device_count()} GPUs are visible to one process",
            "`accelerate launch --multi_gpu` uses them all; `CUDA_VISIBLE_DEVICES=0` uses one",
        )
    check_compiler()
    fitting = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    told = os.environ.get("ACCELERATE_MIXED_PRECISION", fitting)
    return Compute(on_cpu=False, mixed=told if precision == "auto" else precision)


def check_compiler() -> None:
    """What Triton needs at its first kernel, minutes of data before a step could say so; raises HostCannot."""
    if find_spec("triton") is None:
        return
    hint = "`apt-get install gcc python3-dev`; the image that dimba builds has them"
    if not (os.environ.get("CC") or which("gcc") or which("clang")):
        raise HostCannot("there is no C compiler, and Triton, which the loss is computed with, needs one", hint)
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if not header.is_file():
        raise HostCannot(f"{header} is missing, and Triton, which the loss is computed with, needs it", hint)


def _cpu_precision(asked: str, *, samples: bool) -> str:
    """float32 unless bf16 is asked for, by whoever knew that it would be a CPU, and is what the CPU computes in."""
    import torch

    if asked == "auto":
        assumed = ON_CPU_INSTEAD in os.environ
        asked = "no" if assumed else os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    able = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    why = "" if able else "this CPU has neither avx512_bf16 nor amx"
    if samples:
        why = "completions are sampled and scored in float32 on a CPU"
    if asked == "fp16":
        why = "a CPU does not train in it"
    if asked == "no" or not why:
        return asked
    if is_first_rank():
        print(f"{asked} was asked for, and {why}: float32", flush=True)
    return "no"


def load_tokenizer(checkpoint: str, flag: str = "--base-checkpoint", *, code: bool = False) -> Any:
    """The checkpoint's tokenizer, its own `code` run where it has any; raises BadInput with what is missing."""
    from transformers import AutoTokenizer

    return _loaded(AutoTokenizer, checkpoint, flag, trust_remote_code=code)


def load_context(checkpoint: str, *, code: bool = False) -> int | None:
    """Tokens that the model was made for; None where its configuration does not say. Raises BadInput."""
    from transformers import AutoConfig

    config = _loaded(AutoConfig, checkpoint, trust_remote_code=code).get_text_config()
    context: int | None = getattr(config, "max_position_embeddings", None)
    return context


def load_model(args: TrainerOptions, compute: Compute) -> Any:
    """The base in float32 for full fine-tuning and on the CPU, frozen in bf16 or nf4 under an adapter on CUDA."""
    from transformers import AutoModelForCausalLM

    adapter = args.use_lora or args.use_qlora
    options = _options(args, compute, frozen=adapter) | _attention(args, compute)
    return _differentiable(_loaded(AutoModelForCausalLM, args.base_checkpoint, **options))


def load_reference(args: TrainerOptions, compute: Compute) -> Any:
    """The base once more, frozen, in the precision of a base under an adapter; raises BadInput."""
    from transformers import AutoModelForCausalLM

    options = _options(args, compute, frozen=True) | _attention(args, compute)
    return _loaded(AutoModelForCausalLM, args.base_checkpoint, **options).requires_grad_(False)


def _attention(args: TrainerOptions, compute: Compute) -> dict[str, str]:
    """What transformers is to be told of it; the rest is found out once the model is there."""
    kind = getattr(args, "attention", "auto")
    if kind in ("auto", "documents"):
        return {}
    if kind == "flash_attention_2" and (compute.on_cpu or find_spec("flash_attn") is None):
        why = "it is for CUDA" if compute.on_cpu else "flash-attn is not installed"
        raise BadInput(f"--attention {kind}: {why}", "leave --attention out, or `--attention sdpa`")
    return {"attn_implementation": kind}


def _differentiable(model: Any) -> Any:
    """Keeps bitsandbytes from packing 4-bit weights for a CPU at the first look without gradients.

    It does not unpack them for training, and the kernel that then runs has no backward: gradients were lost in silence
    (0.50.2, on CPUs with AVX512-BF16).
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


def load_classifier(checkpoint: str, args: TrainerOptions, compute: Compute, flag: str = "--base-checkpoint") -> Any:
    """A model of one output, its weights frozen: a base under a new head, or a whole one with `--reward-model`.

    Raises:
        BadInput: it cannot be loaded, there is no such kind of it, or a whole one has no head of one output.
    """
    from transformers import AutoModelForSequenceClassification
    from trl.trainer.reward_trainer import suppress_seqcls_warning

    given = flag == "--reward-model"
    options = _options(args, compute, frozen=True) | {"num_labels": 1, "ignore_mismatched_sizes": True}
    with nullcontext() if given else suppress_seqcls_warning():  # which hides that the head is missing, too
        model, found = _loaded(
            AutoModelForSequenceClassification, checkpoint, flag, output_loading_info=True, **options
        )
    if given:
        _check_head(checkpoint, found)
    return _differentiable(model)


def _check_head(checkpoint: str, found: Mapping[str, Any]) -> None:
    """What the files lack is random now; raises BadInput."""
    hint = "give one that was trained to score, or leave --reward-model out: one is trained on the pairs then"
    if others := sorted(found["mismatched_keys"]):
        name, shape, _ = others[0]
        sizes = "×".join(map(str, shape))
        raise BadInput(f"--reward-model: {checkpoint}: `{name}` is {sizes}; a reward model has one output", hint)
    if missing := sorted(found["missing_keys"]):
        raise BadInput(f"--reward-model: {checkpoint} has no reward head: `{missing[0]}` is not in its files", hint)


def _options(args: TrainerOptions, compute: Compute, *, frozen: bool) -> dict[str, Any]:
    import torch

    reduced = torch.float16 if compute.mixed == "fp16" else torch.bfloat16
    # Master weights in bf16 drift from the first steps on; what is trained stays in float32.
    dtype = reduced if frozen and not compute.on_cpu else torch.float32
    # None takes safetensors where there are any.
    safe = None if args.allow_pickle else True
    options: dict[str, Any] = {
        "dtype": dtype,
        "use_safetensors": safe,
        "trust_remote_code": args.trust_remote_code,
    }
    if args.use_qlora:
        options |= {"quantization_config": _nf4(dtype), "device_map": {"": _device(compute)}}
    return options


def adapter_config(args: TrainerOptions) -> Any:
    """LoRA on every linear layer; None for full fine-tuning."""
    if not (args.use_lora or args.use_qlora):
        return None
    from peft import LoraConfig

    return LoraConfig(r=args.lora_r, lora_alpha=args.lora_alpha, target_modules="all-linear", task_type="CAUSAL_LM")


def _nf4(dtype: Any) -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def _device(compute: Compute) -> str | int:
    return "cpu" if compute.on_cpu else int(os.environ.get("LOCAL_RANK", "0"))


def _loaded(kind: Any, checkpoint: str, flag: str = "--base-checkpoint", **options: Any) -> Any:
    path = Path(checkpoint).expanduser()
    if names_a_path(checkpoint):
        if not (path / "config.json").is_file():
            problem = (
                "has no config.json" if path.is_dir() else "is not a folder" if path.exists() else "does not exist"
            )
            raise BadInput(f"{flag}: {path} {problem}", "give a folder in Hugging Face format, or a Hub id")
        checkpoint = str(absolute(path))  # what an adapter notes as its base
    try:
        if not options["trust_remote_code"]:
            _refuse_code(checkpoint, flag)
        return kind.from_pretrained(checkpoint, **options)
    except (OSError, ValueError) as error:
        hint = "check the folder's files; a Hub id needs the network, a private one HF_TOKEN"
        if "safetensors" in str(error):
            hint = "convert it with `save_pretrained`; or `--allow-pickle`, if you trust whoever made it"
        raise BadInput(f"{flag}: {checkpoint}: {str(error).strip().splitlines()[0]}", hint) from error


def _refuse_code(checkpoint: str, flag: str) -> None:
    """Raises BadInput for a checkpoint that names code of its own, before transformers asks on a terminal."""
    from transformers.utils import cached_file

    for name in CONFIGS:
        found = cached_file(
            checkpoint,
            name,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
            _raise_exceptions_for_gated_repo=False,
        )
        if found and names_code(json.loads(Path(found).read_text(encoding="utf-8"))):
            raise BadInput(f"{flag}: {checkpoint} brings code of its own ({name} asks for it)", RUN_ITS_CODE)
