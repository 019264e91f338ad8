"""`dimba eval`: the verdict first, then a table of the figures."""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dimba.cli import render
from dimba.cli.models import model_request, sampling_of
from dimba.common.contract import absolute
from dimba.common.errors import BadInput

if TYPE_CHECKING:
    from rich.table import Table

    from dimba.commands.eval.judge import Judge
    from dimba.commands.eval.request import EvalRequest
    from dimba.commands.eval.result import Evaluation, Measure, ModelResult
    from dimba.commands.eval.statistics import Wins


def eval(args: argparse.Namespace) -> int:  # the command's name
    """Measure models on the same rows, print which is better, and write eval.json."""
    from dimba.commands.eval.evaluate import evaluate, keep

    found = evaluate(_request(args), render.reporter())
    written = keep(found)
    if args.json:
        sys.stdout.write(json.dumps(found.as_json(), indent=2, ensure_ascii=False) + "\n")
        return 0
    _show(found)
    for path in written:
        render.note(f"written to {path}")
    return 0


def _request(args: argparse.Namespace) -> "EvalRequest":
    from dimba.commands.eval.request import EvalRequest
    from dimba.objectives.rewards import parse_rewards

    return EvalRequest(
        models=tuple(args.models),
        against=args.against,
        file=absolute(args.file) if args.file else None,
        columns=tuple(args.columns),
        limit=args.limit,
        batch_size=args.batch_size,
        keep_overlap=args.keep_overlap,
        guard=args.guard,
        tasks=_tasks(args.tasks),
        fewshot=args.fewshot,
        plain_tasks=args.plain_tasks,
        trusts_task_code=args.trust_task_code,
        rewards=parse_rewards(args.reward),
        reward_model=absolute(args.reward_model) if args.reward_model else None,
        judge=_judge(args),
        sampling=sampling_of(args),
        where=model_request(args),
    )


def _judge(args: argparse.Namespace) -> "Judge | None":
    from dimba.commands.eval.judge import Judge
    from dimba.common.errors import BadInput

    if not args.judge:
        return None
    if not args.judge_model:
        raise BadInput("--judge names no model", "name the model that judges there with `--judge-model NAME`")
    return Judge(url=args.judge, model=args.judge_model, key_env=args.judge_key_env)


def _show(found: "Evaluation") -> None:
    console = render.output_console()
    console.print(found.verdict, markup=False, soft_wrap=True)
    for model in found.models:
        console.print()
        if len(found.models) > 1:
            console.print(model.name, markup=False, soft_wrap=True)
        console.print(_table(model))
        for measure in model.measures:
            if measure.wins:
                console.print(_wins(measure.name, measure.wins), markup=False, soft_wrap=True)
    for note in found.notes:
        render.note(note)
    for where, problem in list(found.unusable.items())[:_SHOWN]:
        render.note(f"not measured: {problem}" if where in problem else f"not measured: {where}: {problem}")
    if len(found.unusable) > _SHOWN:
        render.note(f"… and {len(found.unusable) - _SHOWN:,} other rows; eval.json lists them")


def _table(model: "ModelResult") -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("MEASURE", "MODEL", "AGAINST", "DIFFERENCE", "95 % INTERVAL", "BETTER"):
        table.add_column(name, no_wrap=True)
    for measure in model.measures:
        table.add_row(*_cells(measure))
    return table


_SHOWN = 3  # rows that were not measured
_WORDS = {True: "yes", False: "no", None: "unclear"}


def _cells(measure: "Measure") -> tuple[str, ...]:
    low, high = measure.interval
    means = (f"{measure.model:.4g}", f"{measure.against:.4g}", f"{measure.difference:+.3g}")
    interval = f"{low:+.2g} to {high:+.2g}" if measure.comparison.has_interval else "none"
    return measure.name, *means, interval, _WORDS[measure.comparison.better]


def _wins(name: str, wins: "Wins") -> str:
    low, high = wins.interval
    counts = f"{wins.wins:,} won, {wins.losses:,} lost, {wins.ties:,} tied"
    return f"{name}: {counts}; win rate {wins.rate:.0%} ({low:.0%} to {high:.0%})"


def _tasks(given: Sequence[str]) -> tuple[str, ...]:
    """The names of `--tasks`; raises BadInput for one that is empty, as of a variable that is not set."""
    names = tuple(name.strip() for each in given for name in each.split(","))
    if "" in names:
        raise BadInput(f"--tasks {','.join(given)}: a name is empty", "name tasks as `--tasks arc_easy,./mine.yaml`")
    return names
