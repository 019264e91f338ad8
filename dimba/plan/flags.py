"""The alias table: which flag of a trainer carries which value of the spec."""

import difflib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from dimba.common.errors import BadInput, DimbaError
from dimba.dataset.mixture import mixture_text
from dimba.host.facts import TrainerFacts
from dimba.host.own_flags import refusal
from dimba.options import lora_table, optimiser_table, table, tracking_table
from dimba.options.lora_table import ALL_LINEAR
from dimba.options.param import Param
from dimba.options.speed_table import SEQUENCE_PARALLEL
from dimba.options.stream_table import STREAM
from dimba.plan.job import ResolvedJob
from dimba.plan.model import Omitted
from dimba.spec import WeightedDataset
from dimba.spec.training import Lora, Training

_SECTIONS = (STREAM, SEQUENCE_PARALLEL, *lora_table.PARAMS, *optimiser_table.PARAMS, *tracking_table.PARAMS)
EVERY_ALIAS = frozenset(
    alias
    for param in (*vars(table).values(), *_SECTIONS)
    if isinstance(param, Param) and param is not table.RESUME
    for alias in param.spellings
)


_OF_HUB = (table.DATASET_CONFIG, table.DATASET_SPLIT, table.DATASET_REVISION)
_ONE_SOURCE = (table.LOCAL_DATA, *_OF_HUB, table.COLUMNS)  # a list has its own


def flag_for(param: Param, flags: Collection[str]) -> str | None:
    """The flag of a trainer that carries `param`: the first of its aliases among `flags`."""
    return next((alias for alias in param.spellings if alias in flags), None)


@dataclass(frozen=True)
class Value:
    """The value of a parameter on its way to the trainer; no tokens is a bare flag."""

    param: Param
    tokens: tuple[str, ...] = ()
    needed: bool = False  # the job would not mean what the spec says without it
    silent: bool = False  # the spec did not set it, so its absence is not reported

    @property
    def aliases(self) -> tuple[str, ...]:
        """The flags that may carry it, first match wins."""
        return self.param.spellings


@dataclass(frozen=True)
class Resolved:
    """The resolved paths of the spec, and the number of GPUs."""

    base: str
    data: str
    output: str
    gpu_count: int
    sources: tuple[str, ...] = ()  # of a list of data sets, in place of `data`


def trainer_argv(job: ResolvedJob, trainer: TrainerFacts, at: Resolved) -> tuple[list[str], list[Omitted]]:
    """(the trainer's arguments, the values that it has no flag for).

    Raises:
        BadInput: the job could not mean what was asked, or `trainer_args` has a flag that does not go.
    """
    flags = trainer.flags
    argv: list[str] = []
    omitted: list[Omitted] = []
    for value in values(job, at):
        if flag := flag_for(value.param, flags):
            argv += [flag, *value.tokens]
        elif value.needed and not flags:
            hint = f"run `python {trainer.path} --help`, and fix its error"
            raise BadInput(
                f"{trainer.path} defines no flags, according to its {trainer.flags_from}", hint, key="trainer"
            )
        elif value.needed:
            raise BadInput(
                f"the trainer has no flag for it (looked in its {trainer.flags_from} for {_either_way(value.aliases)})",
                "give another `trainer`, or add the flag to it"
                + ("; `--trust-spec` runs its `--help`" if trainer.flags_from == "source" else ""),
                key=value.param.key,
            )
        elif not value.silent:
            omitted.append(Omitted(key=value.param.key, value=" ".join(value.tokens)))
    return argv + list(_further(job, flags, at)), omitted


def _either_way(aliases: Sequence[str]) -> str:
    return f"{', '.join(alias for alias in aliases if '_' not in alias)}, with dashes or underscores"


def values(job: ResolvedJob, at: Resolved) -> Iterator[Value]:
    """The values of the job for a trainer, in the order of its flags."""
    training, on_cpu = job.spec.training, at.gpu_count == 0
    yield Value(table.MODE, (job.mode,), silent=True)
    yield Value(table.BASE, (at.base,), needed=True)
    if job.spec.base_revision and not PurePath(at.base).is_absolute():  # a folder of the cache has no other revision
        yield Value(table.BASE_REVISION, (job.spec.base_revision,), needed=True)
    yield from _data(job, at)
    yield from _method(job)
    if job.batch_size is not None:  # `auto`: reading the data does not need it
        yield Value(table.BATCH_SIZE, (str(job.batch_size),))
    yield Value(table.ACCUMULATION, (str(job.accumulation),))
    yield Value(table.EPOCHS, (f"{training.epochs:g}",))
    if training.max_steps is not None:
        yield Value(table.MAX_STEPS, (str(training.max_steps),))
    yield Value(table.LEARNING_RATE, (str(training.learning_rate),))
    yield from _optimiser(training)
    yield from _tracking(job)
    yield Value(table.MAX_LENGTH, (str(job.max_length),))
    yield Value(table.SEED, (str(training.seed),))
    yield Value(table.OUTPUT_DIR, (at.output,))
    if job.ranks_per_row > 1:
        yield Value(SEQUENCE_PARALLEL, (str(job.ranks_per_row),), needed=True)
    yield Value(table.GPUS, (str(at.gpu_count),), silent=True)
    if on_cpu:
        yield Value(table.DEVICE, ("cpu",), silent=True)


def _data(job: ResolvedJob, at: Resolved) -> Iterator[Value]:
    data = job.spec.dataset
    if isinstance(data, list):
        texts = (_mixture_text(each, place) for each, place in zip(data, at.sources, strict=True))
        yield Value(table.MIXTURE, tuple(texts), needed=True)
        return
    if data.path is not None:
        suffix = PurePath(data.path.removesuffix(".gz")).suffix.removeprefix(".")
        yield Value(table.LOCAL_DATA, (at.data,), needed=True)
        if suffix:
            yield Value(table.DATA_FORMAT, (suffix,), silent=True)
    else:
        yield Value(table.DATASET, (at.data,), needed=True)
    if data.config is not None:
        yield Value(table.DATASET_CONFIG, (data.config,))
    if data.split is not None:
        yield Value(table.DATASET_SPLIT, (data.split,))
    if data.revision is not None:
        yield Value(table.DATASET_REVISION, (data.revision,), needed=True)
    if data.stream:
        yield Value(STREAM, needed=job.objective.takes(STREAM))
    if data.columns:
        yield Value(table.COLUMNS, tuple(f"{ours}={theirs}" for ours, theirs in data.columns.items()))


def _mixture_text(source: WeightedDataset, place: str) -> str:
    given = source.model_dump(exclude_defaults=True, exclude={"name", "path"})
    return mixture_text(place, local=source.path is not None, given=given)


def _method(job: ResolvedJob) -> Iterator[Value]:
    if job.method == "full":
        yield Value(table.FULL, silent=True)
        return
    yield Value(table.USE_LORA, needed=job.method == "lora", silent=True)
    if job.method == "qlora":
        yield Value(table.USE_QLORA, needed=True)
    yield Value(table.LORA_R, (str(job.lora.r),))
    yield Value(table.LORA_ALPHA, (str(job.lora.alpha),))
    yield from _adapter(job.lora)


def _adapter(lora: Lora) -> Iterator[Value]:
    """What differs from the defaults; an adapter on other weights is another adapter."""
    if lora.dropout:
        yield Value(lora_table.DROPOUT, (f"{lora.dropout:g}",))
    if lora.target_modules != ALL_LINEAR:
        yield Value(lora_table.TARGET_MODULES, lora.targets, needed=True)
    if lora.modules_to_save:
        yield Value(lora_table.MODULES_TO_SAVE, tuple(lora.modules_to_save), needed=True)
    if lora.trainable_tokens:
        yield Value(lora_table.TRAINABLE_TOKENS, tuple(lora.trainable_tokens), needed=True)
    if lora.use_rslora:
        yield Value(lora_table.USE_RSLORA, needed=True)
    if lora.use_dora:
        yield Value(lora_table.USE_DORA, needed=True)
    if lora.init is not True:
        yield Value(lora_table.INIT, (str(lora.init).lower(),), needed=True)


def _optimiser(training: Training) -> Iterator[Value]:
    """What differs from the defaults."""
    if training.scheduler is not None:
        yield Value(optimiser_table.SCHEDULER, (training.scheduler,))
    if training.warmup is not None:
        yield Value(optimiser_table.WARMUP, (f"{training.warmup:g}",))
    for param, value in (
        (optimiser_table.WEIGHT_DECAY, training.weight_decay),
        (optimiser_table.MAX_GRAD_NORM, training.max_grad_norm),
    ):
        if value != param.default:
            yield Value(param, (f"{value:g}",))
    if training.optimizer != optimiser_table.OPTIMIZER.default:
        yield Value(optimiser_table.OPTIMIZER, (training.optimizer,))


def _tracking(job: ResolvedJob) -> Iterator[Value]:
    """What differs from the defaults; for an objective without a validation loss the plan refuses it elsewhere."""
    training, takes = job.spec.training, job.objective.takes
    if training.save_best:
        yield Value(tracking_table.SAVE_BEST, needed=takes(tracking_table.SAVE_BEST))
    if training.early_stop is not None:
        needed = takes(tracking_table.EARLY_STOP)
        yield Value(tracking_table.EARLY_STOP, (str(training.early_stop),), needed=needed)
    if training.trackers:
        yield Value(tracking_table.REPORT_TO, training.trackers)


def _further(job: ResolvedJob, flags: frozenset[str], at: Resolved) -> Iterator[str]:
    ours = {alias: value.param.key for value in values(job, at) for alias in value.aliases}
    unset = (
        *(table.USE_LORA, table.USE_QLORA, table.FULL, table.DEVICE, table.MAX_STEPS, table.BATCH_SIZE),
        table.BASE_REVISION,
        *_SECTIONS,
        *(table.MIXTURE, *(_ONE_SOURCE if isinstance(job.spec.dataset, list) else ())),
    )
    ours |= {alias: "dataset" if param in _ONE_SOURCE else param.key for param in unset for alias in param.spellings}
    for name, value in job.trainer_args.items():
        flag = f"--{name}"
        if flag in ours:
            raise BadInput(f"dimba sets `{flag}` itself", f"set `{ours[flag]}` instead", key=f"trainer_args.{name}")
        if flag not in flags:
            close = difflib.get_close_matches(flag, flags, n=1)
            hint = f"did you mean `{close[0][2:]}`?" if close else f"its flags: {' '.join(sorted(flags))}"
            raise BadInput(f"the trainer has no flag `{flag}`", hint, key=f"trainer_args.{name}")
        if value is not False:
            yield flag
            yield from _tokens(value)


def value_problems(job: ResolvedJob, trainer: Path | None, project: Path) -> list[DimbaError]:
    """All values in `trainer_args` that one of the project's own trainers would refuse."""
    asked = {name: value for name, value in job.trainer_args.items() if value is not False}
    found = {name: refusal(trainer, project, [f"--{name}", *_tokens(value)]) for name, value in asked.items()}
    hint = f"`python {trainer} --help` lists the valid values"
    return [BadInput(why, hint, key=f"trainer_args.{name}") for name, why in found.items() if why]


def _tokens(value: bool | int | float | str | Sequence[bool | int | float | str]) -> Iterator[str]:
    if isinstance(value, list):
        yield from (str(item) for item in value)
    elif value is not True:
        yield str(value)
