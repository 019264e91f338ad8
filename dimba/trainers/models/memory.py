"""A measurement beside the memory estimate: a step at the longest length before training, and the peak at its end."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dimba.common.errors import RunFailed, first_line
from dimba.common.units import size
from dimba.objectives.budgets import FILLED
from dimba.options.checkpointing import ALL, Checkpointing
from dimba.trainers.models.gpu_errors import SMALLER_HINT, estimate_note, out_of_memory
from dimba.trainers.models.recompute import LayerCheckpointing
from dimba.trainers.objectives.callbacks import Metrics

if TYPE_CHECKING:
    from transformers import Trainer

    from dimba.trainers.data.packing import Batch, Collator


class Meter(Protocol):
    """Measures the memory of a device in bytes; tests replace it."""

    def total(self) -> int:
        """The device's memory."""

    def available(self) -> int:
        """The memory that this process can use, including what it uses already."""

    def peak(self) -> tuple[int, int]:
        """(reserved from the device, allocated to tensors), each at its highest so far."""

    def reset_peak(self) -> None:
        """Releases unused memory and starts a new peak."""


class CudaMeter:
    """The current GPU, by torch's caching allocator; CUDA's own context is not included."""

    def total(self) -> int:
        """The GPU's memory in bytes."""
        return int(torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory)

    def available(self) -> int:
        """Free bytes, and those that this process has reserved."""
        return int(torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved())

    def peak(self) -> tuple[int, int]:
        """(reserved, allocated) bytes at their highest."""
        return int(torch.cuda.max_memory_reserved()), int(torch.cuda.max_memory_allocated())

    def reset_peak(self) -> None:
        """Empties the allocator's cache and resets its statistics."""
        gc.collect()  # the frames of a step that ran out of memory keep its tensors in cycles
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


class MemoryProbe(TrainerCallback):
    """Runs a step of the largest size before training starts, and records the peak when it ends.

    The probe leaves no trace: no optimiser step is made, gradients are cleared, random numbers are restored.
    With `can_fall_back`, more `layers` recompute their activations if the step does not leave a part of the GPU free:
    half of them, then all.
    """

    def __init__(
        self,
        trainer: Trainer,
        inputs: Callable[[], Batch],
        metrics: Path,
        meter: Meter,
        layers: LayerCheckpointing,
        *,
        can_fall_back: bool,
    ) -> None:
        self._trainer, self._inputs, self._meter, self._layers = trainer, inputs, meter, layers
        self._metrics = Metrics(metrics)
        self._tried = _tried(layers) if can_fall_back else ()

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Runs the step, with gradients and the optimiser's memory in place; raises RunFailed if it does not fit."""
        self._meter.reset_peak()  # loading and continuations are not the step
        if not any(self._fits(each) for each in self._tried):
            if self._tried:
                self._use(ALL)
            try:
                run_probe(self._trainer, self._inputs())
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                raise self._too_large(error) from None
        self._report(state, "a step at the longest length takes")

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Reports the peak of the job."""
        self._report(state, "at its peak the job took")

    def _fits(self, chosen: Checkpointing) -> bool:
        """Whether the step fits on every rank with this activation checkpointing, which stays chosen."""
        self._use(chosen)
        accelerator = self._trainer.accelerator
        with accelerator.no_sync(self._trainer.model_wrapped):  # the ranks must not wait for one that fails
            fits = self._fits_here()
        fitting = accelerator.reduce(torch.tensor(float(fits), device=accelerator.device), "sum")
        return int(fitting) == accelerator.num_processes

    def _fits_here(self) -> bool:
        try:
            run_probe(self._trainer, self._inputs())
        except RuntimeError as error:
            if out_of_memory(error):
                return False
            raise
        return self._meter.peak()[0] <= FILLED * self._meter.available()

    def _use(self, chosen: Checkpointing) -> None:
        if chosen == self._layers.chosen:
            return
        self._layers.chosen = chosen
        self._meter.reset_peak()
        self._trainer.model.activation_checkpointing_enable()
        if self._trainer.accelerator.is_main_process:
            problem = f"activations would fill more than {FILLED:.0%} of the GPU"
            print(f"memory: {problem}: activation checkpointing of {self._layers.words}", flush=True)

    def _report(self, state: TrainerState, title: str) -> None:
        if not state.is_world_process_zero:
            return
        reserved, allocated = self._meter.peak()
        self._metrics.write(state, {"peak_memory_bytes": reserved, "peak_allocated_bytes": allocated})
        measured = f"{size(reserved)} of {size(self._meter.total())} ({size(allocated)} in tensors)"
        print(f"memory: {title} {measured}{estimate_note()}", flush=True)

    def _too_large(self, error: BaseException) -> RunFailed:
        reserved, _ = self._meter.peak()
        needed = f"more than the GPU's {size(self._meter.total())}, of which {size(reserved)} were taken"
        line = first_line(error)
        problem = f"a step at the longest length needs {needed}{estimate_note()}\n  | {line}"
        return RunFailed(problem, SMALLER_HINT, reason="gpu_out_of_memory")


def _tried(layers: LayerCheckpointing) -> tuple[Checkpointing, ...]:
    """The choices that are tried before all layers recompute their activations."""
    half = Checkpointing(layers=len(layers.layers) // 2)
    return (layers.chosen, half) if layers.count < half.count(len(layers.layers)) else (layers.chosen,)


def run_probe(trainer: Trainer, inputs: Mapping[str, torch.Tensor]) -> None:
    """Runs two batches forward and backward (one if a step has one), with memory for the optimiser set aside."""
    model = trainer.model_wrapped
    trained = [each for each in model.parameters() if each.requires_grad]
    counters = saved_counters(trainer)
    devices = [torch.cuda.current_device()] if trainer.args.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        moments = [] if trainer.optimizer.state else [torch.empty_like(each) for each in trained for _ in range(2)]
        try:
            for _ in range(min(2, trainer.args.gradient_accumulation_steps)):
                _run_batch(trainer, model, inputs)
        finally:
            moments.clear()
            model.zero_grad(set_to_none=True)
            for name, value in counters.items():
                setattr(trainer, name, value)


def _run_batch(trainer: Trainer, model: torch.nn.Module, inputs: Mapping[str, torch.Tensor]) -> None:
    model.train()
    on_device = trainer._prepare_input(dict(inputs))
    with trainer.compute_loss_context_manager():
        loss = trainer.probed_loss(model, on_device)
    trainer.accelerator.backward(loss)


def saved_counters(trainer: Trainer) -> dict[str, Any]:
    """The trainer's counts and metrics of its batches, to be restored; prepares them for the probe."""
    names = ("_metrics", "_tokens", "current_gradient_accumulation_steps")
    saved = {name: copy.deepcopy(getattr(trainer, name)) for name in names if hasattr(trainer, name)}
    trainer.current_gradient_accumulation_steps = trainer.args.gradient_accumulation_steps
    return saved


def meter_of(device: torch.device) -> Meter | None:
    """The meter of a GPU; None on a CPU, whose memory seldom ends a job."""
    return CudaMeter() if device.type == "cuda" else None


def add_probe(
    trainer: Trainer, inputs: Callable[[], Batch], metrics: Path, layers: LayerCheckpointing, *, can_fall_back: bool
) -> None:
    """Adds a MemoryProbe of the batch that `inputs` makes, if the device has a meter."""
    if meter := meter_of(trainer.args.device):
        trainer.add_callback(MemoryProbe(trainer, inputs, metrics, meter, layers, can_fall_back=can_fall_back))


def longest_rows(collate: Collator, *, rows: int, length: int) -> Batch:
    """A collated batch of `rows` rows of the longest length.

    One of several is two halves if `collate` packs them, so that they are documents, else a token shorter, so that the
    batch needs a mask.
    """

    def collated(*last: int) -> Batch:
        lengths = [length] * (rows - 1) + [each for each in last if each]
        return collate([{"input_ids": [1] * each, "labels": [1] * each} for each in lengths])

    if rows == 1:
        return collated(length)
    packed = collated(length // 2, length - length // 2)
    return collated(max(1, length - 1)) if "attention_mask" in packed else packed


def longest_completions(*, rows: int, prompt: int, completion: int, reference: bool, corrected: bool = False) -> Batch:
    """A batch of GRPO's loss: `rows` prompts and completions of these lengths, one prompt padded to need a mask.

    `corrected`: the loss is corrected for the probabilities of another sampler.
    """
    ids = {"prompt": torch.ones(rows, prompt, dtype=torch.long), "completion": torch.ones(rows, completion).long()}
    masks = {name: torch.ones_like(each) for name, each in ids.items()}
    masks["prompt"][0, : prompt // 2] = 0
    batch = {f"{name}_ids": each for name, each in ids.items()}
    batch |= {f"{name}_mask": each for name, each in masks.items()}
    batch |= {"advantages": torch.zeros(rows), "num_items_in_batch": torch.tensor(float(rows * completion))}
    batch |= {"ref_per_token_logps": torch.zeros(rows, completion)} if reference else {}
    return batch | ({"importance_sampling_ratio": torch.ones(rows, completion)} if corrected else {})
