"""DPO: make the preferred answer of a pair more likely than the rejected one."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from dimba.common.errors import BadInput, Location
from dimba.dataset.formats import UnknownFormat, with_our_names
from dimba.dataset.prompt_examples import PromptFormat, first_example, recognise_prompt, survey_prompts, with_answer
from dimba.dataset.samples import Sample
from dimba.objectives.batches import RowBatches
from dimba.objectives.budgets import by_method
from dimba.objectives.objective import Columns, MemoryTerms, Objective, Rates, Start, TrainerArgs
from dimba.options import diffusion_table, dpo_table, optimiser_table, speed_table, table
from dimba.options.examples import ExampleOptions
from dimba.options.kinds import Number, Text
from dimba.options.param import option

_PAIR = ("chosen", "rejected")


@dataclass(frozen=True)
class _WordsBut(Text):
    """One of some words; words of other objectives are refused with the reason."""

    words: tuple[str, ...]
    refused: tuple[str, ...]
    reason: str

    def __call__(self, text: str) -> str:
        """Parse a command-line argument."""
        if text in self.refused:
            raise argparse.ArgumentTypeError(self.reason.format(text))
        if text not in self.words:
            raise argparse.ArgumentTypeError(f"invalid choice: `{text}` (choose from {', '.join(self.words)})")
        return text


_ON_LONG = _WordsBut(
    ("truncate", "drop"),
    refused=("split",),
    reason="`{}` separates answers from their prompt; use `truncate` or `drop`",
)
_ATTENTION = _WordsBut(
    ("auto", "sdpa", "eager", "flash_attention_2", "flash_attention_3"),
    refused=("documents", "varlen", "flex_attention"),
    reason="`{}` is for packed rows, and pairs are padded; leave out --attention",
)


def _one_of(kind: _WordsBut) -> str:
    return f"{{{','.join(kind.words)}}}"


@dataclass(frozen=True, kw_only=True)
class DpoOptions(ExampleOptions):
    """Options of `finetune_dpo.py`."""

    epochs: float = option(table.EPOCHS, default=1.0)
    learning_rate: float = option(table.LEARNING_RATE, help="default: 5e-06 for adapters, 5e-07 for full")
    warmup: float = option(optimiser_table.WARMUP, default=0.1)  # as in Zephyr's recipes
    batch_size: int = option(table.BATCH_SIZE, help="pairs per GPU and forward pass")
    max_length: int = option(table.MAX_LENGTH, help="tokens of a prompt and one of its answers at most")
    validation_split: float | str | None = option(
        table.VALIDATION_SPLIT,
        help="pairs to hold out: a share (0.05), a number, or a Hub split; pairs of one prompt stay together",
    )
    on_long: str | None = option(
        table.ON_LONG,
        kind=_ON_LONG,
        metavar=_one_of(_ON_LONG),
        help="pairs with an answer over --max-length; required where more than a tenth of the trained tokens would be "
        "cut",
    )
    packing: str = option(speed_table.PACKING, help="of no effect: pairs are padded")
    attention: str = option(
        speed_table.ATTENTION, kind=_ATTENTION, metavar=_one_of(_ATTENTION), help="attention kernel (auto: sdpa)"
    )
    beta: float = option(
        table.BETA,
        kind=Number(above=0),
        default=0.1,
        help="how closely the model stays to the base; a smaller value lets it move further",
    )
    loss_type: str = option(dpo_table.PAIR_LOSS)
    mask_token: str | None = option(diffusion_table.MASK_TOKEN)
    end_tail: int = option(diffusion_table.END_TAIL)
    mask_draws: int = option(diffusion_table.MASK_DRAWS)


def recognise_pairs(row: Mapping[str, Any], columns: Columns, where: Location) -> PromptFormat:
    """The format of a row with two answers; raises BadInput for any other row."""
    try:
        form = recognise_prompt(row, columns, where)
    except UnknownFormat:
        if columns or set(_PAIR) <= row.keys():
            raise
    else:
        if form.pairs:
            return form
    absent = [f"`{each}`" for each in _PAIR if each not in with_our_names(row, columns)]
    present = ", ".join(f"`{key}`" for key in row) or "(none)"
    raise BadInput(
        f"DPO compares two answers, and this row has no {' and no '.join(absent)}; the columns are {present}",
        "name them with `dataset.columns: {prompt: …, chosen: …, rejected: …}`; rows of one answer are for `mode: sft`",
    ).at(where)


class _Pairs:
    """Rows with a preferred and a rejected answer."""

    survey = staticmethod(partial(survey_prompts, recognise=recognise_pairs))

    def format_name(self, row: Mapping[str, Any], columns: Columns, where: Location) -> str:
        """The format's name; raises BadInput for an unknown one."""
        return recognise_pairs(row, columns, where).name

    def first_sample(self, row: Mapping[str, Any], columns: Columns, where: Location) -> Sample:
        """The prompt with its preferred answer; raises BadInput for an unusable row."""
        example = first_example(row, columns, where, recognise_pairs)
        return with_answer(example, example.chosen)


class _PairBatches(RowBatches):
    """Batches of pairs."""

    unit = "pair"


def _memory(args: TrainerArgs, _open_pairs: bool) -> MemoryTerms:
    draws = args.get(diffusion_table.MASK_DRAWS.name)
    draws = draws if type(draws) is int and draws > 0 else int(diffusion_table.MASK_DRAWS.default)
    return MemoryTerms(sequences=2, draws=draws, masked=True, reference=True)


DPO = Objective(
    name="dpo",
    summary="DPO: make the preferred answer of each pair more likely than the rejected one; full, LoRA or Q-LoRA.",
    choice="learn from pairs of a preferred and a rejected answer; on top of an SFT model",
    options=DpoOptions,
    rates=Rates(adapter=5e-6, full=5e-7),  # of TRL's scripts/dpo.py; Zephyr's recipes for full and for Q-LoRA
    starts={
        4: Start(accumulation=by_method("64/32/32"), max_steps=500),
        8: Start(accumulation=by_method("32/16/32"), max_steps=500),
        16: Start(accumulation=by_method("16/8/16"), max_steps=800),
        24: Start(accumulation=by_method("8/4/8"), max_steps=1000),
        40: Start(accumulation=by_method("4/2/4"), max_steps=1000),
    },
    batches=_PairBatches(),
    rows=_Pairs(),
    memory=_memory,
    wants="preferences",
    preset="Code-Feedback",
    bf16_on_cpu=True,
    tokenizes_first=True,
)
