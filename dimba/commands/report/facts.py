"""What ran and how it ended, as labelled texts."""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dimba.commands.report.charts import number_text, step_text
from dimba.commands.report.gather import RunFacts, masked
from dimba.common.units import size, span
from dimba.records import RunRecord
from dimba.records.record import Attempt, now

_SCORES = (
    ("loss", "loss"),
    ("eval_loss", "validation loss"),
    ("reward", "reward"),
    ("eval_reward", "held-out reward"),
    ("rewards/accuracies", "pairs ranked right"),
    ("tokens_per_second", "tokens per second"),
)


@dataclass(frozen=True)
class Fact:
    """A label and its text; `is_code` for what a program reads."""

    label: str
    text: str
    is_code: bool = False


def outcome_facts(run: RunFacts) -> list[Fact]:
    """How the run ended, or that it is active."""
    record = run.record
    found = [
        ("status", record.status),
        ("exit reason", record.exit_reason),
        ("exit code", record.exit_code),
        ("learned", _learned(record)),
        ("evaluation", _verdict(run)),
        ("saved model", _saved(record)),
        ("waits for", record.waits_for),
        ("steps", _steps(run)),
        *((label, _last(run, key)) for key, label in _SCORES),
        ("GPU memory", _memory(run)),
        ("started", _clock(record.started)),
        ("ended", _clock(record.ended)),
        ("duration", _duration(record.started, record.ended)),
        ("output folder", record.output_dir),
    ]
    return [Fact(label, masked(str(text))) for label, text in found if text not in (None, "")]


EVALUATION = ("measure", "model", "against", "difference", "95 % interval", "p", "better")


def evaluation_rows(run: RunFacts) -> list[tuple[str, ...]]:
    """The cells of each measure that `dimba eval` has written; a measure of another version is left out."""
    rows: list[tuple[str, ...]] = []
    for name, measure in _mapping(run.evaluation.get("measures")).items():
        try:
            low, high = measure["interval"] or (None, None)
            means = (f"{measure['model']:.4g}", f"{measure['against']:.4g}", f"{measure['difference']:+.3g}")
            better = {True: "yes", False: "no"}.get(measure["better"], "unclear")
            interval = ("none", "") if low is None else (f"{low:+.3g} to {high:+.3g}", f"{measure['p']:.3f}")
            rows.append((str(name), *means, *interval, better))
        except (KeyError, TypeError, ValueError):
            continue
    return rows


def what_ran(run: RunFacts) -> list[Fact]:
    """The provenance of a run: command, code, image, data, machine."""
    record = run.record
    git = record.git_revision and f"{record.git_revision}{' with uncommitted changes' if record.git_dirty else ''}"
    found: list[tuple[str, Any]] = [
        ("run", record.id),
        ("repeats", record.same_as),
        ("recipe of", _mapping(record.recipe).get("run")),
        ("not as in the recipe", "; ".join(_recipe_differences(record))),
        ("mode", record.mode),
        ("method", record.method),
        ("runner", record.runner),
        ("launched as", shlex.join(map(str, record.command))),
        ("overrides", " ".join(map(str, record.overrides))),
        ("trainer's command", shlex.join(map(str, _list(run.plan.get("argv"))))),
        ("image", record.image),
        ("image digest", record.image_digest),
        ("image's releases", record.image_pins),
        ("git revision", git),
        ("code", record.code_hash),
        ("lock files", record.lock_hash),
        ("base", record.base_hash),
        ("data", record.data_hash),
        ("trainer", record.trainer_hash),
        ("spec", record.spec_hash),
        *((f"file of {name}", digest) for name, digest in _mapping(record.files).items()),
        ("effective batch", record.effective_batch),
        ("seed", record.seed),
        ("strategy", run.plan.get("strategy")),
        ("GPUs", ", ".join(map(str, record.gpu_names)) or ("none" if run.plan else "")),
        ("driver", record.driver),
        ("machine", record.host),
        ("packages", ", ".join(f"{name} {version}" for name, version in _mapping(record.packages).items())),
        ("continued though changed", "; ".join(_departures(record))),
    ]
    return [Fact(label, masked(str(text)), is_code=True) for label, text in found if text not in (None, "")]


def attempt_rows(record: RunRecord) -> list[tuple[str, ...]]:
    """Number, start, end, duration, reason and exit code of each attempt."""
    return [tuple(masked(str(cell)) for cell in _attempt(each)) for each in record.attempts]


def _attempt(each: Attempt) -> Iterator[object]:
    yield each.number
    yield _clock(each.started)
    yield _clock(each.ended) or "active"
    yield _duration(each.started, each.ended)
    yield each.exit_reason or ""
    yield "" if each.exit_code is None else each.exit_code


def _learned(record: RunRecord) -> str:
    if record.learned is None:
        return ""
    return f"nothing: {record.learning_problem}" if record.learning_problem else "yes" if record.learned else "no"


def _verdict(run: RunFacts) -> str:
    verdict = run.evaluation.get("verdict")
    return verdict if isinstance(verdict, str) else ""


def _saved(record: RunRecord) -> str:
    text = _mapping(record.learning).get("saved_model")
    return "equals the trained one" if text == "equal" else str(text or "")


def _steps(run: RunFacts) -> str:
    metrics = run.metrics
    if not metrics.rows:
        return ""
    total = f" of {metrics.max_steps:,}" if metrics.max_steps else ""
    repeated = f", {metrics.repeated:,} of them trained again after a resume" if metrics.repeated else ""
    return f"{step_text(metrics.last_step)}{total}{repeated}"


def _last(run: RunFacts, key: str) -> str:
    value = run.metrics.last(key)
    return "" if value is None else number_text(value)


def _memory(run: RunFacts) -> str:
    measured, estimated = run.measured_memory, run.estimated_memory
    parts = [
        f"{size(measured)} at its peak" if measured else "",
        f"{size(estimated)} estimated" if estimated else "",
        f"the estimate is {estimated / measured - 1:+.1%} off" if measured and estimated else "",
    ]
    return ", ".join(filter(None, parts))


def _clock(time: str | None) -> str:
    try:
        return datetime.fromisoformat(str(time)).strftime("%Y-%m-%d %H:%M:%S UTC") if time else ""
    except ValueError:
        return str(time)


def _duration(start: str | None, end: str | None) -> str:
    try:
        passed = datetime.fromisoformat(end or now()) - datetime.fromisoformat(str(start))
        return span(passed.total_seconds())
    except (ValueError, TypeError):
        return ""


def _recipe_differences(record: RunRecord) -> Iterator[str]:
    for each in _list(_mapping(record.recipe).get("differences")):
        found = _mapping(each)
        if found.get("kind") != "does not change":
            yield f"{found.get('key')}: {found.get('that')}, here {found.get('this')}"


def _departures(record: RunRecord) -> Iterator[str]:
    for each in record.departures:
        yield from map(str, _list(_mapping(each).get("differences")))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []
