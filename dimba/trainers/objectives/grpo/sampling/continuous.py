"""transformers' continuous batching as the sampler: a completion that ends makes room for the next one.

TRL's own use of it casts the trained float32 weights to half precision for good, and passes over requests that failed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from transformers import ContinuousBatchingConfig
from trl.models import unwrap_model_for_generation

from dimba.common.errors import RunFailed, first_line
from dimba.trainers.objectives.grpo.sampling.sampler import Completions, Ids, checked
from dimba.trainers.ranks import is_main_process

if TYPE_CHECKING:
    from trl import GRPOTrainer

_CACHE = 0.5  # of the memory that is free
_PAGE = 256  # tokens
_ATTENTIONS = ("sdpa", "eager", "flash_attention_2", "flash_attention_3")


class ContinuousSampler:
    """Samples with the trained model itself, in half precision if it is trained under autocast."""

    name = "continuous batching"

    def __init__(self, trainer: GRPOTrainer) -> None:
        self._trainer = trainer
        self._graphs = GraphTrial(tried=trainer.accelerator.device.type == "cuda" and not _has_flash())

    def sample(self, prompts: Ids, generations: int) -> Completions:
        """One completion for each prompt; raises RunFailed if a request fails."""
        graphs, start = self._graphs.next(), time.perf_counter()
        try:
            completions = self._complete(prompts, graphs=graphs)
        except RunFailed as error:
            if not graphs:
                raise
            self._graphs.fail(error)
            return self.sample(prompts, generations)
        self._graphs.record(graphs, sum(map(len, completions.ids)) / (time.perf_counter() - start))
        return completions

    def _complete(self, prompts: Ids, *, graphs: bool | None) -> Completions:
        trainer = self._trainer
        was_training = trainer.model.training
        with (
            unwrap_model_for_generation(trainer.model_wrapped, trainer.accelerator) as model,
            torch.no_grad(),
            half_weights(model, _half(trainer.args)),
            _pageable(model),
        ):
            outputs = list(_generate(model, prompts, trainer.generation_config, graphs=graphs).values())
        trainer.model.train(was_training)
        if failed := [each.error for each in outputs if each.error is not None]:
            raise RunFailed(f"{self.name} failed: {first_line(failed[0])}", "leave out --sampler continuous")
        completions = Completions([each.generated_tokens for each in outputs], [each.logprobs for each in outputs])
        return checked(self.name, prompts, [each.prompt_ids for each in outputs], completions)


class GraphTrial:
    """Whether CUDA graphs make it quicker under a mask, which they pad: each way is timed when it is warm.

    With flash attention transformers uses graphs itself.
    """

    def __init__(self, *, tried: bool) -> None:
        self._ways: list[bool | None] = [False, True, False, True] if tried else []
        self._rates: dict[bool | None, float] = {}  # tokens per second, of the last time
        self.chosen: bool | None = None  # None: transformers decides

    def next(self) -> bool | None:
        """Whether the next sample is drawn with graphs."""
        return self._ways[0] if self._ways else self.chosen

    def record(self, graphs: bool | None, rate: float) -> None:
        """Note the rate of a sample; the last one decides."""
        if not self._ways:
            return
        self._ways.pop(0)
        self._rates[graphs] = rate
        if not self._ways:
            self.chosen = self._rates[True] > self._rates[False]
            rates = " against ".join(f"{self._rates[way]:,.0f}" for way in (self.chosen, not self.chosen))
            self._report(f"{'with' if self.chosen else 'without'} CUDA graphs: {rates} tokens/s")

    def fail(self, error: RunFailed) -> None:
        """Sample without graphs from now on."""
        self._ways, self.chosen = [], False
        self._report(f"without CUDA graphs: with them, {error.detail}")

    def _report(self, line: str) -> None:
        if is_main_process():
            print(f"sampling: continuous batches {line}", flush=True)


def _has_flash() -> bool:
    return find_spec("flash_attn") is not None


def _generate(model: Any, prompts: Ids, generation: Any, *, graphs: bool | None) -> dict[str, Any]:
    longest = max(map(len, prompts)) + generation.max_new_tokens
    config = ContinuousBatchingConfig(
        return_logprobs=True,
        # A CPU would give the cache half of the machine's memory, and take a minute to do so.
        num_blocks=len(prompts) * (longest // _PAGE + 1) if model.device.type == "cpu" else None,
        page_size=_PAGE,
        max_memory_percent=_CACHE,
        use_cuda_graph=graphs,
        auto_switch_to_flash=_has_flash(),  # else it may download one
    )
    outputs: dict[str, Any] = model.generate_batch(
        prompts, generation_config=generation, continuous_batching_config=config, progress_bar=False
    )
    return outputs


def _half(args: Any) -> torch.dtype | None:
    return torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None


@contextmanager
def half_weights(model: torch.nn.Module, dtype: torch.dtype | None) -> Iterator[None]:
    """Gives the float32 matrices of a base the type within: sampling has no autocast in its own thread.

    An adapter keeps its type, to which it casts what it reads. The float32 weights are put back as they were.
    """
    is_adapter = hasattr(model, "peft_config")
    wide = [] if dtype is None or is_adapter else [each for each in model.parameters() if each.dtype == torch.float32]
    kept = [each.data for each in wide]
    try:
        for each in wide:
            each.data = each.data.to(dtype)
        yield
    finally:
        for each, value in zip(wide, kept, strict=True):
            each.data = value


@contextmanager
def _pageable(model: Any) -> Iterator[None]:
    """Has the model use an attention with a paged cache within."""
    chosen = model.config._attn_implementation
    if chosen in _ATTENTIONS:
        yield
        return
    model.set_attn_implementation("sdpa")
    try:
        yield
    finally:
        model.set_attn_implementation(chosen)
