"""Show the data as a trainer sees them: `python -m dimba.trainers.data.preview MODE FLAGS`, without training.

Prints JSON lines: `{"rows": n}` while it reads, then `{"report": {…}}` or `{"error": {…}}`. What it tokenises is kept
for the job. With `--lines` for the mode it prints lines for people instead, of SFT's, and ends as a trainer does.
"""

import json
import os
import sys
from argparse import Namespace
from typing import Any

from dimba.common.errors import DimbaError
from dimba.dataset.token_report import DataReport
from dimba.objectives.arguments import grpo_arguments, sft_arguments
from dimba.trainers.command import every, run_trainer

_SECONDS = 0.5  # between signs of progress


def main(argv: list[str]) -> int:
    """Looks at the data that the flags after the mode name."""
    how, *flags = argv
    args = (grpo_arguments if how == "grpo" else sft_arguments)().parse_args(flags)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if how == "--lines":
        return run_trainer(_prepare, args)
    try:
        _say(report=_report(how, args).as_json())
    except DimbaError as error:
        _say(error=error.as_json())
        return error.exit_status
    return 0


def _report(mode: str, args: Namespace) -> DataReport:
    progress = every(_SECONDS, lambda rows: _say(rows=rows))
    if mode == "grpo":
        from dimba.trainers.objectives.grpo.prompts import load_prompts

        return load_prompts(args, progress).report
    from dimba.trainers.data.loading import load_data

    return load_data(args, progress).report


def _prepare(args: Namespace) -> int:
    from dimba.trainers.data.loading import load_data, say_rows

    load_data(args, say_rows()).checked()
    return 0


def _say(**value: Any) -> None:
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
