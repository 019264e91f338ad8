"""The data as the trainer will see them, without training: `python -m dimba.trainers.preview FLAGS OF THE TRAINER`.

Prints JSON lines: `{"rows": n}` while it reads, then `{"report": {…}}` or `{"error": {…}}`. What it tokenises is kept
for the job. With `--lines` in front it prints lines for people instead, and ends as a trainer ends that refuses.
"""

import json
import os
import sys
from argparse import Namespace
from typing import Any

from dimba.arguments import sft_arguments
from dimba.errors import DimbaError
from dimba.trainers.command import every, run_trainer

_SECONDS = 0.5  # between signs of progress


def main(argv: list[str]) -> int:
    """Looks at the data that `argv`, the flags of `finetune_sft.py`, name."""
    for_people = argv[:1] == ["--lines"]
    args = sft_arguments().parse_args(argv[1:] if for_people else argv)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if for_people:
        return run_trainer(_prepare, args)
    from dimba.trainers.data import load_data

    try:
        _say(report=load_data(args, every(_SECONDS, lambda rows: _say(rows=rows))).report.as_json())
    except DimbaError as error:
        _say(error=error.as_json())
        return error.exit_status
    return 0


def _prepare(args: Namespace) -> int:
    from dimba.trainers.data import load_data, say_rows

    load_data(args, say_rows()).checked()
    return 0


def _say(**value: Any) -> None:
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
