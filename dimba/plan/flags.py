"""The alias table: which flag of a trainer carries which value of the spec."""

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from dimba.common.errors import BadInput, DimbaError
from dimba.host.facts import TrainerFacts
from dimba.host.own_flags import refusal
from dimba.plan.model import Omitted
from dimba.spec import JobSpec


def _spelled(*table: str) -> tuple[str, ...]:
    """The table's aliases in order, then the same with underscores, as many trainers spell them."""
    return (*table, *(each for alias in table if (each := f"--{alias[2:].replace('-', '_')}") not in table))


# First match wins. A trainer gets a value by the first of these flags that it defines.
MODE = _spelled("--mode", "--train-mode", "--training-mode")
RESUME = _spelled("--resume-from-checkpoint")
BASE = _spelled(
    "--base-model",
    "--base-model-path",
    "--base-checkpoint",
    "--model-path",
    "--model",
    "--checkpoint",
    "--checkpoint-path",
)
_DATASET = ("--dataset", "--dataset-name", "--dataset_name", "--hf-dataset")
DATASET = _spelled(*_DATASET)
DATASET_CONFIG = _spelled("--dataset-config", "--dataset_config", "--hf-dataset-config")
DATASET_SPLIT = _spelled("--dataset-split", "--dataset_split", "--split")
LOCAL_DATA = _spelled("--dataset-path", "--data-path", "--train-file", "--dataset-file", *_DATASET)
DATA_FORMAT = _spelled("--dataset-format", "--data-format")
COLUMNS = _spelled("--columns")
USE_LORA = _spelled("--use-lora", "--lora", "--enable-lora")
USE_QLORA = _spelled("--use-qlora", "--qlora")
FULL = _spelled("--full-finetune", "--full-ft")
BATCH_SIZE = _spelled("--batch-size", "--per-device-train-batch-size", "--train-batch-size", "--micro-batch-size")
ACCUMULATION = _spelled(
    "--gradient-accumulation-steps",
    "--grad-accumulation-steps",
    "--grad-accum-steps",
    "--accumulation-steps",
)
EPOCHS = _spelled("--epochs", "--num-train-epochs", "--num-epochs")
MAX_STEPS = _spelled("--max-steps", "--max_steps")
LEARNING_RATE = _spelled("--learning-rate", "--lr")
OUTPUT_DIR = _spelled("--output-dir", "--output_dir")
LORA_R = _spelled("--lora-r", "--lora_r", "--rank")
LORA_ALPHA = _spelled("--lora-alpha", "--lora_alpha")
GPUS = _spelled("--gpus", "--num-gpus", "--num_gpus")
DEVICE = _spelled("--device", "--accelerator")
MAX_LENGTH = _spelled("--max-length", "--max_length", "--max-seq-length")
SEED = _spelled("--seed")


EVERY_ALIAS = frozenset(
    MODE + BASE + LOCAL_DATA + DATASET_CONFIG + DATASET_SPLIT + DATA_FORMAT + COLUMNS + USE_LORA + USE_QLORA + FULL
    + BATCH_SIZE + ACCUMULATION + EPOCHS + MAX_STEPS + LEARNING_RATE + OUTPUT_DIR + LORA_R + LORA_ALPHA + GPUS + DEVICE
    + MAX_LENGTH + SEED
)  # fmt: skip


@dataclass(frozen=True)
class Value:
    """One value on its way to the trainer; no tokens is a bare flag."""

    key: str
    aliases: tuple[str, ...]
    tokens: tuple[str, ...] = ()
    needed: bool = False  # without it the job could not mean what was asked
    silent: bool = False  # nobody asked for it: nothing to say where there is no flag


@dataclass(frozen=True)
class Resolved:
    """Where the spec's paths lead, and on what the job runs."""

    base: str
    data: str
    output: str
    gpu_count: int


def trainer_argv(spec: JobSpec, trainer: TrainerFacts, at: Resolved) -> tuple[list[str], list[Omitted]]:
    """The trainer's flags, one token each, and what it has no flag for.

    Raises:
        BadInput: the job could not mean what was asked, or `trainer_args` has a flag that does not go.
    """
    flags = trainer.flags
    argv: list[str] = []
    omitted: list[Omitted] = []
    for value in values(spec, at):
        flag = next((alias for alias in value.aliases if alias in flags), None)
        if flag:
            argv += [flag, *value.tokens]
        elif value.needed and not flags:
            hint = f"run `python {trainer.path} --help`, and mend what it says"
            raise BadInput(f"trainer: {trainer.path} defines no flags, by its {trainer.flags_from}", hint)
        elif value.needed:
            raise BadInput(
                f"{value.key}: the trainer has no flag for it "
                f"(looked in its {trainer.flags_from} for {_either_way(value.aliases)})",
                "give another `trainer`, or add the flag to it"
                + ("; `--trust-spec` asks the trainer itself" if trainer.flags_from == "source" else ""),
            )
        elif not value.silent:
            omitted.append(Omitted(key=value.key, value=" ".join(value.tokens)))
    return argv + list(_further(spec, flags, at)), omitted


def _either_way(aliases: Sequence[str]) -> str:
    return f"{', '.join(alias for alias in aliases if '_' not in alias)}, with dashes or underscores"


def values(spec: JobSpec, at: Resolved) -> Iterator[Value]:
    """Every value of the spec that a trainer may want, in the order of its flags."""
    training, on_cpu = spec.training, at.gpu_count == 0
    yield Value("mode", MODE, (spec.mode,), silent=True)
    yield Value("base_checkpoint", BASE, (at.base,), needed=True)
    yield from _data(spec, at)
    yield from _method(spec)
    if training.batch_size != "auto":  # nobody needs it to look at the data
        yield Value("training.batch_size", BATCH_SIZE, (str(training.batch_size),))
    yield Value("training.grad_accumulation_steps", ACCUMULATION, (str(training.grad_accumulation_steps),))
    yield Value("training.epochs", EPOCHS, (f"{training.epochs:g}",))
    if training.max_steps is not None:
        yield Value("training.max_steps", MAX_STEPS, (str(training.max_steps),))
    yield Value("training.learning_rate", LEARNING_RATE, (str(training.learning_rate),))
    yield Value("training.max_length", MAX_LENGTH, (str(training.max_length),))
    yield Value("training.seed", SEED, (str(training.seed),))
    yield Value("output_dir", OUTPUT_DIR, (at.output,))
    yield Value("resources.gpus", GPUS, (str(at.gpu_count),), silent=True)
    if on_cpu:
        yield Value("device", DEVICE, ("cpu",), silent=True)


def _data(spec: JobSpec, at: Resolved) -> Iterator[Value]:
    data = spec.dataset
    if data.path is not None:
        suffix = PurePath(data.path.removesuffix(".gz")).suffix.removeprefix(".")
        yield Value("dataset.path", LOCAL_DATA, (at.data,), needed=True)
        yield Value("dataset format", DATA_FORMAT, (suffix,), silent=True)
    else:
        yield Value("dataset.name", DATASET, (at.data,), needed=True)
    if data.config is not None:
        yield Value("dataset.config", DATASET_CONFIG, (data.config,))
    if data.split is not None:
        yield Value("dataset.split", DATASET_SPLIT, (data.split,))
    if data.columns:
        yield Value("dataset.columns", COLUMNS, tuple(f"{ours}={theirs}" for ours, theirs in data.columns.items()))


def _method(spec: JobSpec) -> Iterator[Value]:
    if spec.method == "full":
        yield Value("method", FULL, silent=True)
        return
    yield Value("method", USE_LORA, needed=spec.method == "lora", silent=True)
    if spec.method == "qlora":
        yield Value("method", USE_QLORA, needed=True)
    yield Value("lora.r", LORA_R, (str(spec.lora.r),))
    yield Value("lora.alpha", LORA_ALPHA, (str(spec.lora.alpha),))


def _further(spec: JobSpec, flags: frozenset[str], at: Resolved) -> Iterator[str]:
    ours = {alias: value.key for value in values(spec, at) for alias in value.aliases}
    ours |= dict.fromkeys(USE_LORA + USE_QLORA + FULL, "method")
    ours |= dict.fromkeys(DEVICE, "resources.gpus") | dict.fromkeys(MAX_STEPS, "training.max_steps")
    ours |= dict.fromkeys(BATCH_SIZE, "training.batch_size")
    for name, value in spec.trainer_args.items():
        flag = f"--{name}"
        if flag in ours:
            raise BadInput(f"trainer_args.{name}: dimba sets `{flag}` itself", f"set `{ours[flag]}` instead")
        if flag not in flags:
            close = difflib.get_close_matches(flag, flags, n=1)
            hint = f"did you mean `{close[0][2:]}`?" if close else f"its flags: {' '.join(sorted(flags))}"
            raise BadInput(f"trainer_args.{name}: the trainer has no flag `{flag}`", hint)
        if value is not False:
            yield flag
            yield from _tokens(value)


def value_problems(spec: JobSpec, trainer: Path | None, project: Path) -> list[DimbaError]:
    """The values in `trainer_args` that one of our own trainers would refuse, all of them."""
    asked = {name: value for name, value in spec.trainer_args.items() if value is not False}
    found = {name: refusal(trainer, project, [f"--{name}", *_tokens(value)]) for name, value in asked.items()}
    hint = f"`python {trainer} --help` says what it takes"
    return [BadInput(f"trainer_args.{name}: {why}", hint) for name, why in found.items() if why]


def _tokens(value: bool | int | float | str | Sequence[bool | int | float | str]) -> Iterator[str]:
    if isinstance(value, list):
        yield from (str(item) for item in value)
    elif value is not True:
        yield str(value)
