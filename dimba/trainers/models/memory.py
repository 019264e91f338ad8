"""The truth beside the estimate: a step at the longest length before the first, and what the device measured."""

import copy
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from dimba.common.contract import ENV_MEMORY
from dimba.common.errors import RunFailed
from dimba.common.units import size
from dimba.objectives.budgets import FILLED
from dimba.trainers.objectives.callbacks import Metrics

_HINT = (
    "lower `training.batch_size` (and raise `grad_accumulation_steps` alike), lower `training.max_length`, or take "
    "`method: lora` or `qlora`; `batch_size: auto` takes the largest that is estimated to fit"
)


class Meter(Protocol):
    """Measures a device's memory: the seam by which tests do without one."""

    def whole(self) -> int:
        """Bytes that the device has."""

    def room(self) -> int:
        """Bytes that this process can have of it."""

    def peak(self) -> tuple[int, int]:
        """(bytes taken from the device, bytes of tensors among them), at their most so far."""

    def forget(self) -> None:
        """What is not in use is given back, and a new peak begins."""


class CudaMeter:
    """The current card's, by torch's caching allocator."""

    def whole(self) -> int:
        """Bytes that the card has."""
        return int(torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory)

    def room(self) -> int:
        """What is free, and what this process has already."""
        return int(torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved())

    def peak(self) -> tuple[int, int]:
        """What it reserved and what it allocated at most; the context of CUDA itself is in neither."""
        return int(torch.cuda.max_memory_reserved()), int(torch.cuda.max_memory_allocated())

    def forget(self) -> None:
        """Of torch's caching allocator, too."""
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


class MemoryProbe(TrainerCallback):
    """Tries the largest step before the data are loaded, and notes at the end how much was needed.

    Nothing of it is left: no optimiser step is made, gradients go, and random numbers are those of a run without it.
    With `may_keep` activations are kept where that leaves some of the device free, else computed again.
    """

    def __init__(
        self, trainer: Any, inputs: Callable[[], Mapping[str, Any]], metrics: Path, meter: Meter, *, may_keep: bool
    ) -> None:
        self._trainer, self._inputs, self._meter, self._may_keep = trainer, inputs, meter, may_keep
        self._metrics = Metrics(metrics)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """The step, as it is with gradients and an optimiser there already."""
        if not (self._may_keep and self._keeps()):
            try:
                probe(self._trainer, self._inputs())
            except torch.OutOfMemoryError as error:
                raise self._too_large(error) from None
        self._tell(state, "a step at the longest length takes")

    def _keeps(self) -> bool:
        """Whether all ranks can keep activations; has the model compute them again where one cannot."""
        accelerator = self._trainer.accelerator
        with accelerator.no_sync(self._trainer.model_wrapped):  # a rank that fails is not waited for
            fits = self._fits()
        together = accelerator.reduce(torch.tensor(float(fits), device=accelerator.device), "sum")
        if int(together) == accelerator.num_processes:
            return True
        self._meter.forget()
        self._trainer.model.activation_checkpointing_enable()
        if accelerator.is_main_process:
            print(
                f"memory: activations would take over {FILLED:.0%} of the card: they are computed again",
                flush=True,
            )
        return False

    def _fits(self) -> bool:
        try:
            probe(self._trainer, self._inputs())
        except torch.OutOfMemoryError:
            return False
        return self._meter.peak()[0] <= FILLED * self._meter.room()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """What it came to in the end."""
        self._tell(state, "at its peak the job took")

    def _tell(self, state: TrainerState, what: str) -> None:
        if not state.is_world_process_zero:
            return
        reserved, allocated = self._meter.peak()
        self._metrics.write(state, {"peak_memory_bytes": reserved, "peak_allocated_bytes": allocated})
        told = f"{size(reserved)} of {size(self._meter.whole())} ({size(allocated)} in tensors)"
        print(f"memory: {what} {told}{_estimated()}", flush=True)

    def _too_large(self, error: BaseException) -> RunFailed:
        reserved, _ = self._meter.peak()
        needed = f"more than the {size(self._meter.whole())} of the card, of which {size(reserved)} were taken"
        said = str(error).strip().splitlines()[0]
        what = f"a step at the longest length needs {needed}{_estimated()}\n  | {said}"
        return RunFailed(what, _HINT, reason="gpu_out_of_memory")


def _estimated() -> str:
    said = os.environ.get(ENV_MEMORY, "")
    return f"; {size(int(said))} were estimated" if said.isdecimal() else ""


def probe(trainer: Any, inputs: Mapping[str, Any]) -> None:
    """Two batches forward and backward, where that many make a step, beside what an optimiser will hold."""
    model = trainer.model_wrapped
    trained = [each for each in model.parameters() if each.requires_grad]
    kept = _noted(trainer)
    devices = [torch.cuda.current_device()] if trainer.args.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        moments = [] if trainer.optimizer.state else [torch.empty_like(each) for each in trained for _ in range(2)]
        try:
            for _ in range(min(2, trainer.args.gradient_accumulation_steps)):
                _batch(trainer, model, inputs)
        finally:
            moments.clear()
            model.zero_grad(set_to_none=True)
            _restore(trainer, kept)


def _batch(trainer: Any, model: Any, inputs: Mapping[str, Any]) -> None:
    model.train()
    there = {name: value.to(trainer.args.device) for name, value in inputs.items()}
    with trainer.compute_loss_context_manager():
        loss = trainer.probed_loss(model, there)
    trainer.accelerator.backward(loss)


def _noted(trainer: Any) -> dict[str, Any]:
    """What a trainer counts and logs of its batches."""
    names = ("_metrics", "_tokens", "current_gradient_accumulation_steps")
    kept = {name: copy.deepcopy(getattr(trainer, name)) for name in names if hasattr(trainer, name)}
    trainer.current_gradient_accumulation_steps = trainer.args.gradient_accumulation_steps
    return kept


def _restore(trainer: Any, kept: Mapping[str, Any]) -> None:
    for name, value in kept.items():
        setattr(trainer, name, value)


def meter_of(device: torch.device) -> Meter | None:
    """What measures a device: CUDA only, as a CPU's memory is not what ends a job."""
    return CudaMeter() if device.type == "cuda" else None


def add_probe(trainer: Any, inputs: Callable[[], Mapping[str, Any]], metrics: Path, *, may_keep: bool) -> None:
    """Has `trainer` probed with what `inputs` makes, where there is something to measure."""
    if meter := meter_of(trainer.args.device):
        trainer.add_callback(MemoryProbe(trainer, inputs, metrics, meter, may_keep=may_keep))


def longest_rows(collate: Callable[..., Any], *, rows: int, length: int) -> dict[str, Any]:
    """A batch as the collator makes it, of rows as long as any; two halves in place of one, so that they are packed."""
    halves = [length // 2, length - length // 2] if rows > 1 and length > 3 else [length]
    made = [{"input_ids": [1] * each, "labels": [1] * each} for each in ([length] * (rows - 1) + halves)]
    batch: dict[str, Any] = collate(made)
    return batch


def longest_completions(*, rows: int, prompt: int, completion: int, reference: bool) -> dict[str, Any]:
    """Prompts and completions as GRPO trains on them, one prompt padded so that there is a mask."""
    ids = {"prompt": torch.ones(rows, prompt, dtype=torch.long), "completion": torch.ones(rows, completion).long()}
    masks = {name: torch.ones_like(each) for name, each in ids.items()}
    masks["prompt"][0, : prompt // 2] = 0
    made: dict[str, Any] = {f"{name}_ids": each for name, each in ids.items()}
    made |= {f"{name}_mask": each for name, each in masks.items()}
    made |= {"advantages": torch.zeros(rows), "num_items_in_batch": torch.tensor(float(rows * completion))}
    return made | ({"ref_per_token_logps": torch.zeros(rows, completion)} if reference else {})
