"""Refusal: why a checkpoint cannot be trained."""

from typing import NamedTuple


class Refusal(NamedTuple):
    """A predicate of the folder, as in "holds an adapter", and one action that resolves it."""

    problem: str
    hint: str
