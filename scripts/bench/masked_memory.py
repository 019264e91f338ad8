"""Compares the memory estimate of masked-diffusion models with traces of the trainer's own step, without a GPU.

    python scripts/bench/masked_memory.py [WORD …]      # only the combinations whose names contain these words
    python scripts/bench/masked_memory.py --show WORD   # also list the storages at the peak of the trace

As `scripts/bench/memory.py`, with the trainer's masked head and loss, on rows of which every token is masked. The code
of LLaDA and of Dream comes with their checkpoints; llama and qwen2 of transformers stand in for their layers, with
masks of pairs.
"""

import sys
from argparse import Namespace
from dataclasses import asdict, dataclass, replace
from typing import Any
from unittest import mock

import torch

from dimba.host.checkpoint import facts_of_tensors
from dimba.host.facts import CheckpointFacts
from dimba.models.dimba import DimbaConfig, DimbaForMaskedLM, DimbaModel
from dimba.objectives.families import DIMBA, DREAM, MASKED_BY_CODE
from dimba.objectives.family import Family
from dimba.objectives.sft import SftOptions
from dimba.options.checkpointing import checkpointing_of
from dimba.plan.job import resolved
from dimba.plan.memory import moments
from dimba.plan.share import Share
from dimba.plan.states import model_states, with_others
from dimba.spec import JobSpec
from scripts.bench import nf4
from scripts.bench.memory import METHODS, RANK, shape, show
from scripts.bench.sampled import traced_unmasking
from scripts.bench.tracing import MASK_DRAWS, MASKED, MASKED_GROUPS, MASKED_PAIRS, Live, traced_peak

_MIB = 1 << 20
_NANO: dict[str, Any] = {"vocab_size": 49153, "num_layers": 6}
_WIDE: dict[str, Any] = {"vocab_size": 126464, "d_model": 1024, "num_layers": 4, "d_state": 128, "ffn_dim": 2816}
MODELS: dict[str, tuple[Family, Any]] = {
    "nano, 6 layers": (DIMBA, ("dimba", _NANO)),
    "wide, 4 layers": (DIMBA, ("dimba", _WIDE)),
    "LLaDA, 4 layers": (MASKED_BY_CODE, shape("llama", 126464, 4096, 12288, 4, 32, kv=32, tie_word_embeddings=False)),
    "Dream, 4 layers": (DREAM, shape("qwen2", 152064, 3584, 18944, 4, 28, kv=4, tie_word_embeddings=False)),
}
SHAPES = ((1, 4096), (4, 512), (8, 96), (8, 1024))


@dataclass(frozen=True)
class Case:
    """One combination of model, method and step."""

    model: str
    method: str
    way: str  # of activation checkpointing
    rows: int
    length: int
    mode: str = "sft"
    guidance: float | None = None  # of the sampling that is traced, in place of a step of training

    @property
    def name(self) -> str:
        mode = self.mode if self.guidance is None else "guided" if self.guidance else "sampled"
        return f"{self.model:<15} {mode:<7} {self.method:<5} {self.way:<3} {self.rows} × {self.length:<5}"


CASES = [
    Case(model, method, way, *size)
    for model in MODELS
    for method in METHODS
    for way in ("on", "off")
    for size in SHAPES
]
CASES += [replace(each, mode=mode) for mode in ("dpo", "grpo") for each in CASES if each.length == 512]
CASES += [
    replace(each, guidance=guidance)
    for each in CASES
    for guidance in (0.0, 1.0)
    if (each.mode, each.way) == ("grpo", "on")
]
_TRACED = {"sft": MASKED, "dpo": MASKED_PAIRS, "grpo": MASKED_GROUPS}
_PROMPT = 256  # tokens, of the rows of GRPO


def model_of(case: Case) -> tuple[torch.nn.Module, CheckpointFacts]:
    """The model on the meta device, and the facts that its checkpoint would have."""
    from transformers import AutoConfig, AutoModelForCausalLM

    family, (kind, numbers) = MODELS[case.model]
    config = DimbaConfig(**numbers) if family is DIMBA else AutoConfig.for_model(kind, **numbers, mask_token_id=5)
    dtype = torch.float32 if case.method == "full" else torch.bfloat16
    with torch.device("meta"):
        made = DimbaForMaskedLM(config) if family is DIMBA else AutoModelForCausalLM.from_config(config)
    model = made.to(dtype)
    tensors = {name: {"shape": list(each.shape), "dtype": "BF16"} for name, each in model.named_parameters()}
    if case.method == "qlora":
        nf4.quantise(model)
    return model, facts_of_tensors(config.to_dict(), tensors)


def estimated(case: Case, facts: CheckpointFacts) -> Any:
    """The estimate of `dimba plan` for a step of training, or for sampling completions."""
    training = {"batch_size": case.rows, "max_length": case.length}
    values = {"version": 1, "mode": case.mode, "method": case.method, "base_checkpoint": "base", "training": training}
    values |= {"dataset": {"path": "rows.jsonl"}, "lora": {"r": RANK, "alpha": 2 * RANK}}
    own = {
        "dpo": {"mask-draws": MASK_DRAWS},
        "grpo": {"max-completion-length": case.length - _PROMPT, "guidance": case.guidance or 0.0},
    }
    values |= {"trainer_args": own.get(case.mode, {})}
    checkpointing = checkpointing_of(case.way)
    assert checkpointing
    family = MODELS[case.model][0]
    share = Share(batch_size=case.rows, accumulation=4, checkpointing=checkpointing, family=family)
    job = resolved(JobSpec.model_validate(values))
    states = model_states(job, facts, on_cpu=False, shards=1)
    assert states
    states = with_others(job, facts, share, states)
    samples = case.guidance is not None
    found = (each for each in moments(job, facts, share, states) if (each.peak == "sampling") == samples)
    return max(found, key=lambda each: each.total)


def traced(case: Case, model: torch.nn.Module) -> Live:
    """The peak of a step."""
    options = SftOptions(
        base_checkpoint="",
        dataset="",
        output_dir="",
        use_lora=case.method == "lora",
        use_qlora=case.method == "qlora",
        lora_r=RANK,
        lora_alpha=2 * RANK,
    )
    pairs = case.mode == "dpo"
    args = Namespace(**asdict(options), mode=_TRACED[case.mode], accumulation=4)
    args.checkpointing = checkpointing_of(case.way)
    size, family = (case.rows * (2 * MASK_DRAWS if pairs else 1), case.length), MODELS[case.model][0]
    copy = model_of(replace(case, method="lora"))[0] if pairs and case.method == "full" else None
    unchecked = mock.patch.object(DimbaModel, "_time", lambda _self, t, *_: t)  # fake tensors have no values
    paired = "dimba.trainers.models.masked_diffusion.forward.family_of_model"
    with unchecked, mock.patch(paired, lambda _: DREAM if family is not DIMBA else DIMBA):
        if case.guidance is not None:
            return traced_unmasking(model, args, rows=case.rows, length=case.length, guidance=case.guidance)
        batch = dict.fromkeys(("input_ids", "attention_mask"), size)
        batch |= {"completion_ids": (case.rows, case.length - _PROMPT)} if case.mode == "grpo" else {}
        return traced_peak(model, args, batch, masked=True, reference=copy)


def compared(case: Case) -> tuple[int, Live, Any]:
    """(estimated bytes of the traced terms, the trace, the complete estimate)."""
    model, facts = model_of(case)
    estimate, live = estimated(case, facts), traced(case, model)
    return estimate.total - estimate.context - estimate.fragments, live, estimate


def main() -> None:
    words = [each for each in sys.argv[1:] if each != "--show"]
    ratios = []
    for case in CASES:
        if not all(word in case.name for word in words):
            continue
        expected, live, estimate = compared(case)
        ratios.append(expected / live.peak)
        found = f"{expected / _MIB:>8,.0f} MiB estimated {live.peak / _MIB:>8,.0f} traced  {ratios[-1]:.3f}"
        print(f"{case.name} {found}", flush=True)
        if "--show" in sys.argv:
            show(live, estimate)
    print(f"{len(ratios)} combinations: {min(ratios):.3f} to {max(ratios):.3f}")


if __name__ == "__main__":
    main()
