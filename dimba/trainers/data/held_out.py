"""The rows that a run held out of its training, as samples: `python -m dimba.trainers.data.held_out MODE FLAGS`.

Prints JSON lines: `{"rows": n}` while it reads, `{"row": {"where": …, "sample": {…}}}` for each, then `{"done": …}` or
`{"error": {…}}`.
"""

import json
import os
import sys
from typing import Any

from dimba.common.errors import DimbaError
from dimba.objectives.registry import OBJECTIVES
from dimba.trainers.hub import use_cache_if_unreachable
from dimba.trainers.objectives.registry import training_half
from dimba.trainers.progress import throttled

_SECONDS = 0.5  # between progress lines


def main(argv: list[str]) -> int:
    """Prints the rows that the flags after the mode hold out; returns the exit status."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # read when transformers is imported
    mode, *flags = argv
    try:
        options = OBJECTIVES[mode].parse(flags)
        use_cache_if_unreachable(options, weights=False)
        count = 0
        half = training_half(mode)
        for where, sample in half.held_out(options, throttled(_SECONDS, lambda rows: _print_json(rows=rows))):
            count += 1
            _print_json(row={"where": str(where), "sample": sample.as_json()})
        _print_json(done=count)
    except DimbaError as error:
        _print_json(error=error.as_json())
        return error.exit_status
    return 0


def _print_json(**value: Any) -> None:
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
