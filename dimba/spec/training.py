"""The sections `lora` and `training`: what is trained, and how."""

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from dimba.options import lora_table, optimiser_table, table, tracking_table
from dimba.options.kinds import StepsOrShare
from dimba.options.lora_table import ALL_LINEAR, rank_problem, target_problem
from dimba.spec.declared import bounds, declared
from dimba.spec.part import Part

if TYPE_CHECKING:
    Optimizer = str
    Scheduler = str
    Tracker = str
else:
    Optimizer = Literal[tuple(optimiser_table.OPTIMIZERS)]
    Scheduler = Literal[optimiser_table.SCHEDULERS]
    Tracker = Literal[tracking_table.REPORT_TO.words]
Init = bool | Literal["gaussian", "orthogonal"]
_CHANGES_BASE = "computes the adapter from the base and changes the base with it, so that the adapter alone is wrong"
_NEEDS_MORE = "needs data or settings that a spec does not have"
_REFUSED_INITS = {
    **dict.fromkeys(("pissa", "olora"), _CHANGES_BASE),
    **dict.fromkeys(("eva", "corda", "loftq", "mica"), _NEEDS_MORE),
}


def _init(value: Any) -> Any:
    name = str(value).partition("_niter_")[0]
    if name in _REFUSED_INITS:
        raise ValueError(f"`{value}` {_REFUSED_INITS[name]}: use true, false, gaussian or orthogonal")
    return value


def _trackers(value: Any) -> Any:
    words = tracking_table.REPORT_TO.words
    listed = value if isinstance(value, list) else [value]
    if wrong := [each for each in listed if each not in words]:
        raise ValueError(f"`{wrong[0]}` is none of {', '.join(words)}")
    if len(listed) > 1 and (tracking_table.NO_TRACKER in listed or len(set(listed)) < len(listed)):
        raise ValueError(f"{', '.join(listed)}: name each tracker once, or `{tracking_table.NO_TRACKER}` alone")
    return value


def _targets(value: Any) -> Any:
    if not value or not isinstance(value, str | list):
        raise ValueError(f"expected `{ALL_LINEAR}`, a list of names, or a regular expression")
    return value


def _steps_or_share(value: float) -> float:
    if problem := StepsOrShare().problem(value):
        raise ValueError(f"{value:g} {problem}")
    return value


def _name(value: str) -> str:
    if not value.strip() or value.startswith("-"):
        raise ValueError(f"`{value}` is no name of a module or token" if value.strip() else "holds an empty name")
    return value


Name = Annotated[str, AfterValidator(_name)]
Names = list[Name]


class Lora(Part):
    """The adapter: its rank, its scale, and the weights that it covers."""

    r: Annotated[int, bounds(table.LORA_R)] = declared(table.LORA_R)
    alpha: Annotated[int, bounds(table.LORA_ALPHA)] = declared(table.LORA_ALPHA)
    dropout: Annotated[float, bounds(lora_table.DROPOUT)] = declared(lora_table.DROPOUT)
    target_modules: Annotated[Name | Annotated[Names, Field(min_length=1)], BeforeValidator(_targets)] = declared(
        lora_table.TARGET_MODULES, default=ALL_LINEAR
    )
    modules_to_save: Names = Field(default_factory=list, description=lora_table.MODULES_TO_SAVE.help)
    trainable_tokens: Names = Field(default_factory=list, description=lora_table.TRAINABLE_TOKENS.help)
    use_rslora: bool = declared(lora_table.USE_RSLORA)
    use_dora: bool = declared(lora_table.USE_DORA)
    init: Annotated[Init, BeforeValidator(_init)] = declared(lora_table.INIT, default=True)

    @property
    def targets(self) -> tuple[str, ...]:
        """The target modules as the trainer's flag takes them."""
        return (self.target_modules,) if isinstance(self.target_modules, str) else tuple(self.target_modules)

    @model_validator(mode="after")
    def _possible(self) -> "Lora":
        for found in (target_problem(self.targets), rank_problem(str(self.init), self.r)):
            if found:
                raise ValueError(": ".join(found))
        return self


class Training(Part):
    """Optimisation; null takes the default of mode and method."""

    batch_size: Annotated[int, bounds(table.BATCH_SIZE)] | Literal["auto"] = declared(
        table.BATCH_SIZE, description=f"{table.BATCH_SIZE.help}; auto: the largest that fits the GPU's memory"
    )
    grad_accumulation_steps: Annotated[int, bounds(table.ACCUMULATION)] = declared(table.ACCUMULATION)
    epochs: Annotated[float, bounds(table.EPOCHS)] | None = declared(table.EPOCHS)
    max_steps: Annotated[int, bounds(table.MAX_STEPS)] | None = declared(table.MAX_STEPS)
    learning_rate: Annotated[float, bounds(table.LEARNING_RATE)] | None = declared(table.LEARNING_RATE)
    max_length: Annotated[int, bounds(table.MAX_LENGTH)] = declared(table.MAX_LENGTH)
    seed: Annotated[int, bounds(table.SEED)] = declared(table.SEED)
    scheduler: Scheduler | None = declared(optimiser_table.SCHEDULER, default=None)
    warmup: Annotated[float, Field(ge=0), AfterValidator(_steps_or_share)] | None = declared(
        optimiser_table.WARMUP, default=None
    )
    weight_decay: Annotated[float, bounds(optimiser_table.WEIGHT_DECAY)] = declared(optimiser_table.WEIGHT_DECAY)
    max_grad_norm: Annotated[float, bounds(optimiser_table.MAX_GRAD_NORM)] = declared(optimiser_table.MAX_GRAD_NORM)
    optimizer: Optimizer = declared(optimiser_table.OPTIMIZER)
    save_best: bool = declared(tracking_table.SAVE_BEST)
    early_stop: Annotated[int, bounds(tracking_table.EARLY_STOP)] | None = declared(tracking_table.EARLY_STOP)
    report_to: Annotated[Tracker | Annotated[list[Tracker], Field(min_length=1)], BeforeValidator(_trackers)] = (
        declared(tracking_table.REPORT_TO)
    )

    @property
    def trackers(self) -> tuple[str, ...]:
        """The trackers that get the metrics too."""
        return tracking_table.trackers_of(self.report_to)

    @property
    def rows(self) -> int:
        """The batch size, once it is a number: `auto` was settled by the plan."""
        assert self.batch_size != "auto", "dimba.plan.fitting has settled it"
        return self.batch_size
