"""A training objective as one frozen value, with a field for each difference between modes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from dimba.common.errors import Location
from dimba.dataset.samples import Sample
from dimba.dataset.summary import DataSummary
from dimba.objectives.batches import Batches
from dimba.objectives.budgets import ByMethod, budget_of
from dimba.objectives.samplers import Sampler
from dimba.options.param import Param, params, parse, parser_of
from dimba.options.trainer import TrainerOptions

Options = TypeVar("Options", bound=TrainerOptions)
TrainerArgs = Mapping[str, Any]  # a spec's `trainer_args`
Columns = Mapping[str, str]  # ours: theirs


class RowReader(Protocol):
    """Reads rows as an objective needs them."""

    def survey(
        self,
        path: Path,
        columns: Columns,
        *,
        progress: Callable[[int], None],
        split: str | None = None,
        limit: int | None = None,
    ) -> DataSummary:
        """Read the rows (`limit`: the first ones) of a file, folder or pattern as the trainer does.

        Raises:
            BadInput: none is usable.
        """

    def format_name(self, row: Mapping[str, Any], columns: Columns, where: Location) -> str:
        """The name of a row's format; raises BadInput for an unknown one."""

    def first_sample(self, row: Mapping[str, Any], columns: Columns, where: Location) -> Sample:
        """A row as the wizard shows it; raises BadInput for an unusable one."""


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Default learning rates by kind of method."""

    adapter: float
    full: float

    def of(self, method: str) -> float:
        """The rate for `full`, `lora` or `qlora`."""
        return self.full if method == "full" else self.adapter


@dataclass(frozen=True, kw_only=True)
class MemoryTerms:
    """The terms of GPU memory beside the policy, its gradients and its optimiser."""

    sequences: int = 1  # per row of a batch: 2 where a row holds two answers
    draws: int = 1  # masks of each sequence in a forward pass, for families that mask
    completion: int | None = None  # sampled tokens per prompt at most; only these are scored
    samples: bool = False  # sampling happens in the memory of the training process
    cached: bool = True  # sampling keeps keys and values; else each of its steps reads whole rows
    vllm: bool = False  # vLLM samples on the GPUs of training
    masked: bool = False  # rows are padded under a mask even when there is one
    tiled: bool = True  # the head projects in tiles; else the logits of many tokens are there at once
    reference: bool = (
        False  # full fine-tuning keeps a frozen copy in half precision; an adapter is switched off instead
    )
    reward_model: bool = False  # the base once more, frozen, with an adapter of its own


@dataclass(frozen=True, kw_only=True)
class Start:
    """Starting values for a GPU of some size."""

    accumulation: ByMethod
    max_steps: int


def _no_extra(_args: TrainerArgs) -> str:
    return ""


def _no_sampler(_args: TrainerArgs) -> None:
    return None


@dataclass(frozen=True, kw_only=True)
class Objective(Generic[Options]):
    """One training objective. Its training half is the package `dimba.trainers.objectives.<name>`."""

    name: str
    summary: str  # of its trainer, in one line
    choice: str  # the wizard's menu line, after the name
    advice: str = ""  # shown by the wizard once it is chosen
    options: type[Options]
    rates: Rates
    starts: Mapping[int, Start]  # by budget in GB
    batches: Batches
    rows: RowReader
    memory: Callable[[TrainerArgs, bool], MemoryTerms]  # of trainer_args, and whether the rows are open-ended pairs
    wants: str  # the kind of public data for it: "answers" or "preferences"
    preset: str  # label of the wizard's default data set
    packs: bool = False  # several rows may share a sequence
    bf16_on_cpu: bool = False
    tokenizes_first: bool = False  # the tokens are cached before the ranks start
    loads_lazily: bool = False  # under FSDP2 one process reads the weights for all
    loss_waits: bool = True  # the loss synchronises the ranks: one that runs out of memory alone blocks the others
    image_extra: Callable[[TrainerArgs], str] = field(default=_no_extra)  # suffix of the image's requirements
    sampler: Callable[[TrainerArgs], Sampler | None] = field(default=_no_sampler)

    @property
    def script(self) -> str:
        """Its trainer, relative to the project."""
        return f"scripts/finetuning/finetune_{self.name}.py"

    @property
    def params(self) -> dict[str, Param]:
        """The parameters of its trainer, by field name, with their defaults for this objective."""
        return params(self.options)

    @property
    def epochs(self) -> float:
        """Passes over the data by default."""
        return float(self.params["epochs"].default)

    def takes(self, param: Param) -> bool:
        """Whether its trainer has this parameter."""
        return any(each.flags == param.flags for each in self.params.values())

    def start(self, vram_gb: float | None) -> Start:
        """The starting values for a GPU of `vram_gb` GB."""
        return self.starts[budget_of(vram_gb)]

    def output_dir(self, method: str) -> str:
        """The default output folder."""
        return f"checkpoints/finetune_{self.name}_{method}"

    def parse(self, argv: Sequence[str] | None = None) -> Options:
        """The options of a command line (`sys.argv` without one), every default filled in."""
        parser = parser_of(self.options, self.summary)
        options = parse(self.options, parser, argv)
        if bool(options.dataset) == bool(options.mixture):
            parser.error("give one of --dataset and --mixture")
        return replace(
            options,
            learning_rate=options.learning_rate or self.rates.of(options.method),
            output_dir=options.output_dir or self.output_dir(options.method),
        )
