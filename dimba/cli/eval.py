"""`dimba eval`: the verdict first, then a table of the figures."""

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any

from dimba.cli import render
from dimba.cli.models import model_request
from dimba.common.contract import absolute

if TYPE_CHECKING:
    from rich.table import Table

    from dimba.commands.eval.judge import Judge
    from dimba.commands.eval.request import EvalRequest
    from dimba.commands.eval.result import Evaluation, Measure


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
    from dimba.common.inference import Sampling
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
        rewards=parse_rewards(args.reward),
        reward_model=absolute(args.reward_model) if args.reward_model else None,
        judge=_judge(args),
        sampling=Sampling(temperature=args.temperature, seed=args.seed, max_new_tokens=args.max_new_tokens),
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
    console.print()
    console.print(_table(found))
    for note in found.notes:
        render.note(note)
    for where, problem in list(found.unusable.items())[:3]:
        render.note(f"not measured: {where}: {problem}" if where not in problem else f"not measured: {problem}")
    if len(found.unusable) > 3:
        render.note(f"… and {len(found.unusable) - 3:,} other rows; eval.json lists them")


def _table(found: "Evaluation") -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    several = len(found.models) > 1
    for name in (*(("MODEL",) if several else ()), "MEASURE", "MODEL" if not several else "MEAN", "AGAINST"):
        table.add_column(name)
    for name in ("DIFFERENCE", "95 % INTERVAL", "P", "BETTER"):
        table.add_column(name)
    for model in found.models:
        for measure in model.measures:
            table.add_row(*((model.name,) if several else ()), *_cells(measure))
            if measure.wins:
                table.add_row(*(("",) if several else ()), *_wins(measure.wins))
    return table


_WORDS = {True: "yes", False: "no", None: "unclear"}


def _cells(measure: "Measure") -> tuple[str, ...]:
    low, high = measure.interval
    interval = f"{low:+.3g} to {high:+.3g}"
    means = (f"{measure.model:.4g}", f"{measure.against:.4g}", f"{measure.difference:+.3g}")
    return measure.name, *means, interval, _p(measure.comparison.p), _WORDS[measure.comparison.better]


def _wins(wins: Any) -> tuple[str, ...]:
    low, high = wins.interval
    counts = (f"{wins.wins:,} won", f"{wins.losses:,} lost", f"{wins.ties:,} tied")
    return "  wins", *counts, f"{low:.0%} to {high:.0%}", _p(wins.p), f"{wins.rate:.0%}"


def _p(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"
