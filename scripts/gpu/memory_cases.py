"""The combinations of model, method and step whose memory a GPU measures, the most telling ones first."""

from dataclasses import dataclass

from dimba.host.facts import CheckpointFacts
from dimba.options.checkpointing import checkpointing_of
from dimba.plan.job import resolved
from dimba.plan.memory import estimate_memory
from dimba.plan.model import MemoryEstimate
from dimba.plan.share import Share
from dimba.spec import JobSpec
from scripts.bench import memory
from scripts.bench.memory import RANK, Case

_TINY = ("llama", 512, 128, 256, 4, 4)


@dataclass(frozen=True)
class GpuCase(Case):
    """A combination; its rows attend under a mask unless `attention` says otherwise, as the estimate assumes."""

    accumulation: int = 2
    attention: str = "sdpa"
    completion: int = 64  # sampled tokens per prompt, of `length`

    @property
    def name(self) -> str:
        """In one line."""
        attention = "" if self.attention == "sdpa" else f" {self.attention}"
        rows = f"{self.batch}×{self.length} ckpt {self.checkpointing}{attention}"
        return f"{self.model} {self.mode} {self.method} {rows}"


CASES = (
    GpuCase("llama-1B", "full", 4, 2048),
    GpuCase("llama-8B", "lora", 1, 4096, checkpointing="off"),
    GpuCase("llama-8B", "qlora", 1, 4096),
    GpuCase("llama-1B", "lora", 8, 1024, mode="grpo"),
    GpuCase("llama-1B", "full", 2, 1024, mode="dpo"),
    GpuCase("llama-8B", "lora", 4, 4096, checkpointing=16),
    GpuCase("llama-8B", "lora", 8, 8192, checkpointing="off"),
    GpuCase("qwen3-0.6B", "full", 8, 2048, checkpointing="off"),
    GpuCase("llama-8B", "lora", 1, 16384, checkpointing="offload"),
    GpuCase("llama-1B", "lora", 8, 2048, checkpointing=8),
    GpuCase("llama-1B", "lora", 8, 2048, checkpointing="off", attention="auto"),
    GpuCase("llama-135M", "lora", 8, 1024, checkpointing="off"),
    GpuCase("llama-3B", "full", 2, 2048, checkpointing=14),
    GpuCase("qwen2-0.5B", "full", 16, 512, mode="grpo", checkpointing="off"),
    GpuCase("llama-3B", "qlora", 4, 2048, checkpointing="off"),
    GpuCase("mistral-7B", "lora", 2, 4096),
    GpuCase("qwen2-0.5B", "lora", 4, 1024, mode="dpo", checkpointing="off"),
    GpuCase("llama-1B", "full", 8, 2048, checkpointing="offload"),
    GpuCase("llama-8B", "lora", 2, 1024, mode="dpo"),
    GpuCase("mistral-7B", "qlora", 2, 2048, checkpointing=16),
    GpuCase("llama-135M", "full", 16, 2048, checkpointing="off"),
    GpuCase("qwen3-0.6B", "lora", 1, 16384),
    GpuCase("qwen3-0.6B", "qlora", 4, 2048, checkpointing="off"),
    GpuCase("gemma-2B", "full", 2, 2048),
    GpuCase("llama-8B", "qlora", 4, 512, mode="grpo"),
    GpuCase("llama-8B", "qlora", 1, 2048, mode="dpo", checkpointing="off"),
    GpuCase("llama-8B", "full", 1, 2048),
    GpuCase("llama-8B", "full", 4, 8192, checkpointing="off"),
)
TINY_CASES = (
    GpuCase("tiny", "full", 4, 128, checkpointing=2),
    GpuCase("tiny", "lora", 2, 128, checkpointing="offload"),
    GpuCase("tiny", "qlora", 1, 128),
    GpuCase("tiny", "full", 2, 128, mode="dpo", checkpointing="off"),
    GpuCase("tiny", "lora", 4, 128, mode="grpo", completion=8),
)
memory.MODELS["tiny"] = memory.shape(*_TINY, kv=2, tie_word_embeddings=False)


def estimate_of(case: GpuCase, facts: CheckpointFacts, longest: int) -> MemoryEstimate:
    """The estimate of `dimba plan` for the longest row of so many tokens."""
    grpo = {"trainer_args": {"max-completion-length": case.completion}} if case.mode == "grpo" else {}
    training = {"batch_size": case.batch, "grad_accumulation_steps": case.accumulation, "max_length": case.length}
    values = {"version": 1, "mode": case.mode, "method": case.method, "base_checkpoint": "base", "training": training}
    values |= {"dataset": {"path": "rows.jsonl"}, "lora": {"r": RANK, "alpha": 2 * RANK}, **grpo}
    chosen = checkpointing_of(case.checkpointing)
    assert chosen, "`auto` is the plan's choice"
    share = Share(batch_size=case.batch, accumulation=case.accumulation, longest=longest, checkpointing=chosen)
    found = estimate_memory(resolved(JobSpec.model_validate(values)), facts, on_cpu=False, share=share)
    assert found, "the facts are complete"
    return found
