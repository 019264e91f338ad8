"""ResolvedJob: the job that a plan computes with. A JobSpec is what the user wrote; nothing changes it."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

from dimba.objectives.objective import Objective
from dimba.options.checkpointing import Checkpointing, checkpointing_of
from dimba.options.param import Param
from dimba.spec import JobSpec
from dimba.spec.model import Accelerate, Scalar
from dimba.spec.training import Lora

RECOMPUTE = "activation-checkpointing"  # of `trainer_args`
Argument = Scalar | list[Scalar]


@dataclass(frozen=True, kw_only=True)
class ResolvedJob:
    """A spec with the values that the plan resolved or tries out."""

    spec: JobSpec
    method: str
    batch_size: int | None  # rows per process and forward pass; None until `auto` is resolved
    accumulation: int  # batches per optimiser step: of all processes, or of one after `share_out`
    max_length: int  # tokens
    trainer_args: Mapping[str, Argument]
    ranks_per_row: int = 1  # processes that share each row

    @property
    def mode(self) -> str:
        """The spec's."""
        return self.spec.mode

    @property
    def objective(self) -> Objective[Any]:
        """The spec's."""
        return self.spec.objective

    @property
    def lora(self) -> Lora:
        """The spec's."""
        return self.spec.lora

    @property
    def accelerate(self) -> Accelerate:
        """The spec's."""
        return self.spec.accelerate

    def value_of(self, param: Param) -> Any:
        """The spec's value of a parameter, or the parameter's default."""
        if not param.key:
            return self.trainer_args.get(param.name, param.default)
        return reduce(getattr, param.key.split("."), self.spec)

    @property
    def rows(self) -> int:
        """The batch size, once it is a number."""
        assert self.batch_size is not None, "dimba.plan.fitting resolves `auto`"
        return self.batch_size

    def with_batch(self, batch_size: int, accumulation: int) -> "ResolvedJob":
        """The same job with another batch size and accumulation."""
        return replace(self, batch_size=batch_size, accumulation=accumulation)

    def with_args(self, trainer_args: Mapping[str, Argument]) -> "ResolvedJob":
        """The same job with other `trainer_args`."""
        return replace(self, trainer_args=trainer_args)

    def without_args(self, names: Collection[str]) -> "ResolvedJob":
        """The same job without these `trainer_args`."""
        return self.with_args({name: value for name, value in self.trainer_args.items() if name not in names})

    def with_checkpointing(self, chosen: Checkpointing) -> "ResolvedJob":
        """The same job with this activation checkpointing."""
        return self.with_args({**self.trainer_args, RECOMPUTE: chosen.value})

    def divided(self, ranks: int) -> "ResolvedJob":
        """The same job with rows that `ranks` processes share."""
        return replace(self, ranks_per_row=ranks)

    @property
    def checkpointing(self) -> Checkpointing | None:
        """The activation checkpointing that its flag asks for; None if the flag leaves it open."""
        return checkpointing_of(self.trainer_args.get(RECOMPUTE))


def resolved(spec: JobSpec) -> ResolvedJob:
    """The job with the values of its spec."""
    batch_size = spec.training.batch_size
    return ResolvedJob(
        spec=spec,
        method=spec.method,
        batch_size=None if batch_size == "auto" else batch_size,
        accumulation=spec.training.grad_accumulation_steps,
        max_length=spec.training.max_length,
        trainer_args=spec.trainer_args,
    )
