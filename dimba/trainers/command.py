"""How a trainer ends: the one place that turns what went wrong into a message and an exit status."""

import sys
from argparse import Namespace
from collections.abc import Callable

from dimba.errors import DimbaError


def run_trainer(train: Callable[[Namespace], int], args: Namespace) -> int:
    """Calls `train`; a DimbaError becomes its message on stderr and its status, anything else keeps its traceback."""
    try:
        return train(args)
    except DimbaError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_status
