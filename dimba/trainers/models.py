"""Loading the base: tokenizer, weights in the right precision, quantised or not, and the adapter on top."""

import os
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dimba.contract import absolute, names_a_path
from dimba.errors import BadInput, HostCannot


@dataclass(frozen=True)
class Compute:
    """On what, and in which precision: `mixed` is no, fp16 or bf16."""

    on_cpu: bool
    mixed: str


def choose_compute(device: str) -> Compute:
    """CUDA where it works and is not declined; the precision that `accelerate launch` was told, else what fits."""
    import torch

    works = torch.cuda.is_available()
    if device == "cuda" and not works:
        raise HostCannot("--device cuda: CUDA does not work here", "`--device cpu`, or `dimba doctor` to see why")
    on_cpu = device == "cpu" or not works
    if on_cpu:
        # Whatever the launcher assumed, autocast on a CPU changes the losses and gains nothing by default.
        os.environ["ACCELERATE_MIXED_PRECISION"] = "no"
        return Compute(on_cpu=True, mixed="no")
    if "WORLD_SIZE" not in os.environ and torch.cuda.device_count() > 1:
        raise HostCannot(
            f"{torch.cuda.device_count()} GPUs are visible to one process",
            "`accelerate launch --multi_gpu` uses them all; `CUDA_VISIBLE_DEVICES=0` uses one",
        )
    fitting = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return Compute(on_cpu=False, mixed=os.environ.get("ACCELERATE_MIXED_PRECISION", fitting))


def load_tokenizer(checkpoint: str) -> Any:
    """The checkpoint's tokenizer; raises BadInput with what is missing."""
    from transformers import AutoTokenizer

    return _loaded(AutoTokenizer, checkpoint)


def load_model(args: Namespace, compute: Compute) -> Any:
    """The base in float32 for full fine-tuning and on the CPU, frozen in bf16 or nf4 under an adapter on CUDA."""
    import torch
    from transformers import AutoModelForCausalLM

    reduced = torch.float16 if compute.mixed == "fp16" else torch.bfloat16
    adapter = args.use_lora or args.use_qlora
    # Master weights in bf16 drift from the first steps on; what is trained stays in float32.
    dtype = reduced if adapter and not compute.on_cpu else torch.float32
    options: dict[str, Any] = {"dtype": dtype, "use_safetensors": True}
    if args.use_qlora:
        options |= {"quantization_config": _nf4(dtype), "device_map": {"": _device(compute)}}
    return _loaded(AutoModelForCausalLM, args.base_checkpoint, **options)


def adapter_config(args: Namespace) -> Any:
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


def _loaded(kind: Any, checkpoint: str, **options: Any) -> Any:
    path = Path(checkpoint).expanduser()
    if names_a_path(checkpoint):
        if not (path / "config.json").is_file():
            problem = (
                "has no config.json" if path.is_dir() else "is not a folder" if path.exists() else "does not exist"
            )
            raise BadInput(f"--base-checkpoint: {path} {problem}", "give a folder in Hugging Face format, or a Hub id")
        checkpoint = str(absolute(path))  # what an adapter notes as its base
    try:
        return kind.from_pretrained(checkpoint, trust_remote_code=False, **options)
    except (OSError, ValueError) as error:
        hint = "check the folder's files; a Hub id needs the network, a private one HF_TOKEN"
        raise BadInput(f"--base-checkpoint: {checkpoint}: {str(error).strip().splitlines()[0]}", hint) from error
