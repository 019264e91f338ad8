"""Options of the objectives that learn from given answers."""

from dataclasses import dataclass
from typing import Literal

from dimba.options import optimiser_table, speed_table, table, tracking_table
from dimba.options.param import option
from dimba.options.trainer import TrainerOptions


@dataclass(frozen=True, kw_only=True)
class ExampleOptions(TrainerOptions):
    """Options of a trainer whose rows hold the answers; their defaults are those of `finetune_sft.py`."""

    epochs: float = option(table.EPOCHS, default=3.0)
    learning_rate: float = option(table.LEARNING_RATE, help="default: 0.0002 for adapters, 2e-05 for full")
    train_on: Literal["all", "last"] = option(table.TRAIN_ON)
    on_long: str | None = option(table.ON_LONG)
    eval_steps: int | None = option(table.EVAL_STEPS)
    save_best: bool = option(tracking_table.SAVE_BEST)
    early_stop: int | None = option(tracking_table.EARLY_STOP)
    packing: str = option(speed_table.PACKING)
    attention: str = option(speed_table.ATTENTION)
    warmup: float = option(optimiser_table.WARMUP, default=0.03)
    mixed_precision: str = option(speed_table.MIXED_PRECISION)
    float8: bool = option(speed_table.FLOAT8)
