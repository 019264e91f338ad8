"""What a job that streams its data needs. Pure."""

from collections.abc import Iterator

from dimba.common.errors import BadInput, DimbaError
from dimba.host.facts import HostFacts
from dimba.options import table
from dimba.options.stream_table import SAMPLE_ROWS, STREAM, stream_refusal
from dimba.spec import JobSpec


def stream_problems(spec: JobSpec) -> Iterator[DimbaError]:
    """The reasons why one of the project's own trainers cannot stream the data that the spec wants streamed."""
    if isinstance(spec.dataset, list) or not spec.dataset.stream:
        return
    if not spec.objective.takes(STREAM):
        hint = "leave out `dataset.stream`, and give a part of the data: a pattern of some files, or a slice of a split"
        yield BadInput(f"`mode: {spec.mode}` reads all rows before it trains", hint, key=STREAM.key)
        return
    names = (table.VALIDATION_SPLIT.name, table.ON_LONG.name)
    held_out, on_long = (spec.trainer_args.get(name) for name in names)
    refusal = stream_refusal(max_steps=spec.training.max_steps, held_out=_number(held_out), on_long=_text(on_long))
    if refusal:
        key, problem, hint = refusal
        yield BadInput(problem, hint, key=f"trainer_args.{key[2:]}" if key.startswith("--") else key)


def _number(value: object) -> float | str | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def stream_notes(spec: JobSpec, facts: HostFacts) -> Iterator[str]:
    """A line on the rows that are not read before training."""
    if not facts.data.streamed:
        return
    first = f"only the first {SAMPLE_ROWS:,} rows are checked before training"
    skips = spec.trainer_args.get(table.SKIP_BAD_ROWS.name) is True
    outcome = "is left out and counted" if skips else "stops the run, which saves a checkpoint"
    yield f"{STREAM.key}: {first}; an unusable row behind them {outcome}"
