"""Shows the data as a trainer sees them, without training: `python -m dimba.trainers.data.preview MODE FLAGS`.

Prints JSON lines: `{"rows": n}` while it reads, then `{"report": {…}}` or `{"error": {…}}`. The job finds the tokens
in the cache. With `--lines SCRIPT` in place of the mode it prints lines for people and exits as that trainer does.
"""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from dimba.common.contract import LINES
from dimba.common.errors import BadInput, DimbaError
from dimba.dataset.token_report import DataReport
from dimba.objectives.objective import Objective
from dimba.objectives.registry import OBJECTIVES
from dimba.options.trainer import TrainerOptions
from dimba.trainers.command import run_trainer
from dimba.trainers.hub import at_revision, use_cache_if_unreachable
from dimba.trainers.objectives.registry import training_half
from dimba.trainers.progress import row_printer, throttled

_SECONDS = 0.5  # between progress lines


def main(argv: list[str]) -> int:
    """Previews the data that the flags after the mode name; returns the exit status."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # read when transformers is imported
    if argv[0] == LINES:
        _, script, *flags = argv
        return _tokenize(next(each for each in OBJECTIVES.values() if script.endswith(each.script)), flags)
    objective, *flags = argv
    options = OBJECTIVES[objective].parse(flags)
    try:
        _print_json(report=_report(objective, options).as_json())
    except DimbaError as error:
        _print_json(error=error.as_json())
        return error.exit_status
    return 0


def _report(objective: str, options: TrainerOptions) -> DataReport:
    note = use_cache_if_unreachable(options, weights=False)
    options = at_revision(options, weights=False)
    report = training_half(objective).report(options, throttled(_SECONDS, lambda rows: _print_json(rows=rows)))
    return replace(report, notes=(note, *report.notes)) if note else report


def _tokenize(objective: Objective[Any], flags: Sequence[str]) -> int:
    def report(options: TrainerOptions) -> int:
        if note := use_cache_if_unreachable(options):
            print(note, flush=True)
        data = training_half(objective.name).report(at_revision(options), row_printer())
        if data.problem:
            raise BadInput(data.problem, data.hint)
        return 0

    return run_trainer(report, objective.parse(flags))


def _print_json(**value: Any) -> None:
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
