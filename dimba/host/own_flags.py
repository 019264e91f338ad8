"""Flag values checked by the parsers of dimba's own trainers, without starting them."""

import argparse
from pathlib import Path

from dimba.host.trainer import objective_of
from dimba.options.param import parser_of

_NEEDED = ["--base-checkpoint", "base", "--dataset", "data", "--output-dir", "out"]


def refusal(trainer: Path | None, project: Path, tokens: list[str]) -> str:
    """The reason why one of dimba's trainers rejects these tokens, a flag and its values; empty if none does."""
    objective = objective_of(trainer, project)
    if objective is None:
        return ""
    parser = parser_of(objective.options, objective.summary)
    parser.exit_on_error = False
    try:
        left = parser.parse_known_args([*_NEEDED, *tokens])[1]
    except argparse.ArgumentError as error:
        return error.message
    if left[:1] == tokens[:1]:
        return ""  # unknown flags are reported elsewhere
    return f"takes no value, or fewer; `{' '.join(left)}` is left over" if left else ""
