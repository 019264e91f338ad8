"""Supervised fine-tuning: learn from example answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dimba.common.errors import Location
from dimba.dataset.formats import as_sample, recognise
from dimba.dataset.samples import Sample
from dimba.dataset.summary import survey
from dimba.objectives.batches import RowBatches
from dimba.objectives.budgets import by_method
from dimba.objectives.objective import Columns, MemoryTerms, Objective, Rates, Start, TrainerArgs
from dimba.options import diffusion_table
from dimba.options.examples import ExampleOptions
from dimba.options.param import option
from dimba.options.speed_table import SEQUENCE_PARALLEL
from dimba.options.stream_table import STREAM


@dataclass(frozen=True, kw_only=True)
class SftOptions(ExampleOptions):
    """Options of `finetune_sft.py`."""

    stream: bool = option(STREAM)
    sequence_parallel: int = option(SEQUENCE_PARALLEL)
    mask_token: str | None = option(diffusion_table.MASK_TOKEN)
    end_tail: int = option(diffusion_table.END_TAIL)

    @property
    def ranks_per_row(self) -> int:
        """The number of ranks that share each row; 1 where each has rows of its own."""
        return self.sequence_parallel


class _Answers:
    """Rows with answers to learn from."""

    survey = staticmethod(survey)

    def format_name(self, row: Mapping[str, Any], columns: Columns, where: Location) -> str:
        """The format's name; raises BadInput for an unknown one."""
        return recognise(row, columns, where).name

    def first_sample(self, row: Mapping[str, Any], columns: Columns, where: Location) -> Sample:
        """The row as a chat; raises BadInput for an unusable one."""
        return as_sample(row, recognise(row, columns, where), columns, where)


def _memory(_args: TrainerArgs, _open_pairs: bool) -> MemoryTerms:
    return MemoryTerms()


SFT = Objective(
    name="sft",
    summary="Supervised fine-tuning: full, LoRA or Q-LoRA, with the loss on the assistant's tokens only.",
    choice="learn from example answers: the usual start",
    options=SftOptions,
    rates=Rates(adapter=2e-4, full=2e-5),
    starts={
        4: Start(accumulation=by_method("64/32/32"), max_steps=1000),
        8: Start(accumulation=by_method("32/16/32"), max_steps=1000),
        16: Start(accumulation=by_method("16/8/16"), max_steps=2000),
        24: Start(accumulation=by_method("8/4/8"), max_steps=3000),
        40: Start(accumulation=by_method("4/2/4"), max_steps=3000),
    },
    batches=RowBatches(),
    rows=_Answers(),
    memory=_memory,
    wants="answers",
    preset="ultrachat_200k",
    packs=True,
    bf16_on_cpu=True,
    tokenizes_first=True,
    loads_lazily=True,
    loss_waits=False,
)
