"""Compares the memory estimate with traces of the trainers' own step, for models from 0.1 to 8 B, without a GPU.

    python scripts/bench/memory.py [WORD …]      # only the combinations whose names contain these words
    python scripts/bench/memory.py --show WORD   # also list the storages at the peak of the trace

A trace counts the storages of fake tensors (`scripts/bench/tracing.py`): weights (also in nf4), adapter, gradients,
optimiser, copies, activations (kept, or with activation checkpointing) and the head; for GRPO's sampling, `from` a
number of prompt tokens, also the cache (`scripts/bench/sampled.py`). Not traced, and so in neither column: the CUDA
context, fragmentation, kernels' workspaces, DDP.
"""

import sys
import time
from argparse import Namespace
from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from dimba.host.checkpoint import facts_of_tensors
from dimba.host.facts import CheckpointFacts
from dimba.objectives.sft import SftOptions
from dimba.options.checkpointing import Checkpointing, checkpointing_of
from dimba.plan.job import resolved
from dimba.plan.memory import estimate_memory, moments
from dimba.plan.share import Share
from dimba.spec import JobSpec
from scripts.bench import nf4
from scripts.bench.sampled import traced_sampling
from scripts.bench.tracing import Live, traced_peak

_MIB = 1 << 20


_KEYS = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")


def shape(kind: str, *numbers: int, kv: int, **more: Any) -> Any:
    common = {"num_key_value_heads": kv, "max_position_embeddings": 65536}
    return kind, {**dict(zip(_KEYS, numbers, strict=True)), **common, **more}


MODELS = {
    "llama-135M": shape("llama", 49152, 576, 1536, 30, 9, kv=3, tie_word_embeddings=True),
    "qwen2-0.5B": shape("qwen2", 151936, 896, 4864, 24, 14, kv=2, tie_word_embeddings=True),
    "qwen3-0.6B": shape("qwen3", 151936, 1024, 3072, 28, 16, kv=8, head_dim=128, tie_word_embeddings=True),
    "llama-1B": shape("llama", 128256, 2048, 8192, 16, 32, kv=8, head_dim=64, tie_word_embeddings=True),
    "gemma-2B": shape("gemma", 256000, 2048, 16384, 18, 8, kv=1, head_dim=256, tie_word_embeddings=True),
    "llama-3B": shape("llama", 128256, 3072, 8192, 28, 24, kv=8, head_dim=128, tie_word_embeddings=True),
    "mistral-7B": shape("mistral", 32000, 4096, 14336, 32, 32, kv=8, sliding_window=None, tie_word_embeddings=False),
    "llama-8B": shape("llama", 128256, 4096, 14336, 32, 32, kv=8, tie_word_embeddings=False),
}
# Architectures that the formulas were not written for, with four layers each.
OTHERS = {
    "phi3": shape("phi3", 32064, 3072, 8192, 4, 32, kv=32, pad_token_id=0, tie_word_embeddings=False),
    "gemma3": shape("gemma3_text", 262144, 1152, 6912, 4, 4, kv=1, head_dim=256, tie_word_embeddings=True),
    "olmo2": shape("olmo2", 100352, 2048, 8192, 4, 16, kv=16, pad_token_id=0, tie_word_embeddings=False),
    "neox": shape("gpt_neox", 50432, 2048, 8192, 4, 16, kv=16, tie_word_embeddings=False),
    "phi": shape("phi", 51200, 2560, 10240, 4, 32, kv=32, tie_word_embeddings=False),
    "starcoder2": shape("starcoder2", 49152, 3072, 12288, 4, 24, kv=2, bos_token_id=0, eos_token_id=0,
                         sliding_window=None, tie_word_embeddings=True),
    "qwen3-moe": shape("qwen3_moe", 151936, 2048, 6144, 4, 32, kv=4, head_dim=128, moe_intermediate_size=768,
                        num_experts=32, num_experts_per_tok=8, tie_word_embeddings=False),
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One combination of model, method and step."""

    model: str
    method: str
    batch: int
    length: int
    accumulation: int = 4
    mode: str = "sft"
    checkpointing: int | str = "on"  # as the flag of the trainers
    prompt: int = 0  # tokens; if not 0, the trace is of sampling
    lora: tuple[tuple[str, Any], ...] = ()  # further keys of the spec's `lora`, and their values

    @property
    def name(self) -> str:
        trained = f"acc {self.accumulation} {_WAYS.get(self.checkpointing, f'part {self.checkpointing}')}"
        step = f"{self.batch}×{self.length:<5} {f'from {self.prompt}' if self.prompt else trained}"
        return f"{self.model:<11} {self.mode:<4} {self.method:<5} {step:<20} {' '.join(name for name, _ in self.lora)}"


METHODS = ("full", "lora", "qlora")
_WAYS: dict[int | str, str] = {"on": "ckpt", "off": "kept", "offload": "offload"}


def _cases() -> list[Case]:
    cases = []
    for model in MODELS:
        small = model in ("llama-135M", "qwen2-0.5B", "qwen3-0.6B")
        cases += [
            Case(model, "full", 1, 512, accumulation=1),
            Case(model, "full", 4 if small else 1, 2048),
            *(Case(model, method, 1, 8192 if small else 4096) for method in ("lora", "qlora")),
            *(Case(model, method, 8 if small else 4, 1024) for method in ("lora", "qlora")),
        ]
    cases += [Case("llama-1B", "full", 8, 1024), Case("llama-8B", "full", 1, 16384), Case("llama-8B", "lora", 1, 16384)]
    cases += [
        Case(model, method, 8, 1024, mode="grpo")
        for model in ("qwen2-0.5B", "llama-1B", "llama-8B")
        for method in METHODS
    ]
    cases += [
        Case(model, method, 2, 1024, mode="dpo")
        for model in ("qwen2-0.5B", "llama-1B", "llama-8B")
        for method in METHODS
    ]
    for model in OTHERS:  # float32 experts cannot be traced: their kernel requires bf16
        methods = METHODS[1:] if model == "qwen3-moe" else METHODS
        cases += [Case(model, method, 4, 1024) for method in methods]
    cases += [replace(case, checkpointing="off") for case in cases]
    parts = [
        Case("llama-8B", "lora", 2, 1024),
        Case("llama-8B", "full", 1, 8192),
        Case("qwen3-0.6B", "full", 4, 2048),
        Case("llama-1B", "qlora", 2, 2048),
        Case("llama-1B", "lora", 2, 1024, mode="dpo"),
        Case("llama-1B", "full", 2, 1024, mode="grpo"),
    ]
    cases += [replace(case, checkpointing=way) for case in parts for way in (4, 8, 12, "offload")]
    lengths = ((64, 1024, 768), (256, 512, 128))
    sampled = [(model, *each) for model in MODELS for each in lengths] + [(model, *lengths[0]) for model in OTHERS]
    for model, batch, length, prompt in sampled:
        methods = METHODS[1:] if model == "qwen3-moe" else METHODS
        cases += [Case(model, method, batch, length, mode="grpo", prompt=prompt) for method in methods]
    options: dict[str, Any] = {"target_modules": ["q_proj", "v_proj"], "use_dora": True, "dropout": 0.1}
    options["modules_to_save"] = ["lm_head", "embed_tokens"]
    cases += [
        Case(model, "lora", 2, 1024, checkpointing=checkpointing, lora=((name, value),))
        for model in ("llama-1B", "llama-8B")
        for name, value in options.items()
        for checkpointing in ("on", "off")
    ]
    return cases


CASES = _cases()
RANK = 16


def model_of(case: Case) -> tuple[torch.nn.Module, CheckpointFacts]:
    """The model on the meta device, and the facts that its checkpoint would have."""
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, numbers = {**MODELS, **OTHERS}[case.model]
    config = AutoConfig.for_model(kind, **numbers)
    dtype = torch.float32 if case.method == "full" else torch.bfloat16
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    tensors = {name: {"shape": list(each.shape), "dtype": "BF16"} for name, each in model.named_parameters()}
    if case.method == "qlora":
        nf4.quantise(model)
    return model, facts_of_tensors(config.to_dict(), tensors)


def estimated(case: Case, facts: CheckpointFacts) -> Any:
    """The estimate of `dimba plan`."""
    training = {"batch_size": case.batch, "max_length": case.length}
    # Training and sampling are traced separately, as if vLLM sampled on another GPU.
    elsewhere = {} if case.prompt else {"sampler": "vllm", "sampler-gpus": 1}
    completion = {"max-completion-length": case.length - max(1, case.prompt), **elsewhere}
    grpo = {"trainer_args": completion} if case.mode == "grpo" else {}
    values = {"version": 1, "mode": case.mode, "method": case.method, "base_checkpoint": "base", "training": training}
    values |= {"dataset": {"path": "rows.jsonl"}, "lora": {"r": RANK, "alpha": 2 * RANK, **dict(case.lora)}, **grpo}
    spec = JobSpec.model_validate(values)
    accumulation = 1 if case.prompt else case.accumulation  # sampling covers an entire step
    share = Share(batch_size=case.batch, accumulation=accumulation, checkpointing=_checkpointing(case))
    estimate = estimate_memory(resolved(spec), facts, on_cpu=False, share=None if case.prompt else share)
    assert estimate is not None
    if case.prompt and facts.shape:
        return next(each for each in moments(resolved(spec), facts, share, estimate) if each.peak == "sampling")
    return estimate


def compared(case: Case) -> tuple[int, Live, Any]:
    """(estimated bytes of the traced terms, the trace, the complete estimate)."""
    model, facts = model_of(case)
    estimate = estimated(case, facts)
    options = SftOptions(
        base_checkpoint="",
        dataset="",
        output_dir="",
        use_lora=case.method == "lora",
        use_qlora=case.method == "qlora",
        lora_r=RANK,
        lora_alpha=2 * RANK,
    )
    options = replace(options, **_fields(case))
    args = Namespace(**asdict(options))
    args.mode, args.accumulation, args.checkpointing = case.mode, case.accumulation, _checkpointing(case)
    if case.prompt:
        live = traced_sampling(model, args, rows=case.batch, prompt=case.prompt, length=case.length)
    else:
        copy = model_of(replace(case, method="lora"))[0] if (case.mode, case.method) == ("dpo", "full") else None
        masked = case.batch > 1 or case.mode == "dpo"
        live = traced_peak(model, args, _batch(case), masked=masked, reference=copy)
    return estimate.total - estimate.context - estimate.fragments, live, estimate


def _checkpointing(case: Case) -> Checkpointing:
    found = checkpointing_of(case.checkpointing)
    assert found, "`auto` is the plan's choice"
    return found


def _fields(case: Case) -> dict[str, Any]:
    """The trainer's options for the further keys of `lora`."""
    names = {name: name if name.startswith("use_") else f"lora_{name}" for name, _ in case.lora}
    return {names[name]: tuple(value) if isinstance(value, list) else value for name, value in case.lora}


def _batch(case: Case) -> dict[str, Any]:
    shape = (case.batch, case.length)
    if case.mode == "grpo":
        return {"input_ids": shape, "attention_mask": shape, "completion_ids": (case.batch, case.length - 1)}
    if case.mode == "dpo":
        shape = (2 * case.batch, case.length)
        return dict.fromkeys(("input_ids", "attention_mask", "completion_mask"), shape)
    positions = {"position_ids": shape} if case.batch > 1 else {}
    return {"input_ids": shape, "labels": shape, **positions}


def main() -> None:
    words = [each for each in sys.argv[1:] if each != "--show"]
    ratios = []
    print(f"{'model':<11} {'mode':<4} {'method':<5} {'batch':<20} {'estimated':>10} {'traced':>10}  ratio  s")
    for case in CASES:
        if not all(word in case.name for word in words):
            continue
        began = time.monotonic()
        expected, live, estimate = compared(case)
        ratios.append(expected / live.peak)
        row = f"{case.name} {expected / _MIB:>10,.0f} {live.peak / _MIB:>10,.0f}  {ratios[-1]:.3f}"
        print(f"{row}  {time.monotonic() - began:.0f}", flush=True)
        if "--show" in sys.argv:
            show(live, estimate)
    print(f"{len(ratios)} combinations: {min(ratios):.3f} to {max(ratios):.3f}")


def show(live: Live, estimate: Any) -> None:
    """Print the storages at the peak, by shape, dtype and operation."""
    print(f"  estimated at {estimate.peak}, traced at {live.peak_phase}")
    print("  " + ", ".join(f"{name} {value / _MIB:,.0f}" for name, value in estimate.terms.items() if value))
    alive: Counter[Any] = Counter()
    number: Counter[Any] = Counter()
    for size, *storage in live.at_peak.values():
        alive[tuple(storage)] += size
        number[tuple(storage)] += 1
    for kind, size in alive.most_common(40):
        print(f"  {size / _MIB:>9,.1f} {number[kind]:>4} ×", *kind)


if __name__ == "__main__":
    main()
