"""What the plan says about a base that trains, but not as it is."""

from collections.abc import Iterator

from dimba.common.units import quantity
from dimba.host.facts import CheckpointFacts


def base_notes(base: CheckpointFacts, max_length: int) -> Iterator[str]:
    """One line for each thing to know about the base."""
    if base.sees:
        done = "loaded, trained and saved" if base.text_alone else "trained"
        yield f"base: it reads {' and '.join(base.sees)} too; only its text part is {done}"
    if base.family.note:
        yield f"base: {base.family.label}"
    if base.doubt:
        yield f"base: {base.doubt}"
    if base.quantization:
        yield f"base: its weights are quantised ({base.quantization.label}) and stay so; an adapter is trained on them"
    if base.tokens and (missing := base.tokens.missing_rows):
        counts = f"{base.tokens.tokens:,} tokens, its embedding {quantity(base.tokens.rows, 'row')}"
        yield f"base: its tokenizer has {counts}: {quantity(missing, 'row')} added and trained"
    if base.positions and (warning := base.positions.warning(max_length)):
        yield f"base: {warning}"
