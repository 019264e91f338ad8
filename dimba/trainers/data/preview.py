"""Show the data as a trainer sees them: `python -m dimba.trainers.data.preview MODE FLAGS`, without training.

Prints JSON lines: `{"rows": n}` while it reads, then `{"report": {…}}` or `{"error": {…}}`. What it tokenises is kept
for the job. With `--lines SCRIPT` in place of the mode it prints lines for people and ends as that trainer does.
"""

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from dimba.common.contract import LINES
from dimba.common.errors import BadInput, DimbaError
from dimba.dataset.token_report import DataReport
from dimba.objectives.objective import Objective
from dimba.objectives.registry import OBJECTIVES
from dimba.options.trainer import TrainerOptions
from dimba.trainers.command import every, run_trainer, say_rows
from dimba.trainers.objectives.registry import training_half

_SECONDS = 0.5  # between signs of progress


def main(argv: list[str]) -> int:
    """Looks at the data that the flags after the mode name."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if argv[0] == LINES:
        _, script, *flags = argv
        return _tokenize(next(each for each in OBJECTIVES.values() if script.endswith(each.script)), flags)
    objective, *flags = argv
    options = OBJECTIVES[objective].parse(flags)
    try:
        _say(report=_report(objective, options).as_json())
    except DimbaError as error:
        _say(error=error.as_json())
        return error.exit_status
    return 0


def _report(objective: str, options: TrainerOptions) -> DataReport:
    return training_half(objective).report(options, every(_SECONDS, lambda rows: _say(rows=rows)))


def _tokenize(objective: Objective[Any], flags: Sequence[str]) -> int:
    def report(options: TrainerOptions) -> int:
        found = training_half(objective.name).report(options, say_rows())
        if found.problem:
            raise BadInput(found.problem, found.hint)
        return 0

    return run_trainer(report, objective.parse(flags))


def _say(**value: Any) -> None:
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
