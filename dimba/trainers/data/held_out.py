"""The rows that a run held out of its training, as samples: `python -m dimba.trainers.data.held_out MODE FLAGS`.

Prints JSON lines: `{"rows": n}` while it reads, `{"rewards": […]}` if they are prompts, whose answers these score,
`{"row": {"where": …, "sample": {…}}}` for each (of a pair the chosen side, with `rejected` beside it; of a prompt an
`example` in place of the sample), `{"overlap": {…}}` for those that also stand in the training data, then
`{"done": n}`, the training rows that were compared, or `{"error": {…}}`.
"""

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from dimba.common.errors import DimbaError
from dimba.dataset.overlap import OverlapIndex, sample_of, training_words, words_of
from dimba.dataset.prompt_examples import PromptExample
from dimba.dataset.samples import Sample
from dimba.objectives.registry import OBJECTIVES
from dimba.options.trainer import TrainerOptions
from dimba.trainers.data.loading import held_out_rows, sources_from
from dimba.trainers.hub import at_revision, use_cache_if_unreachable
from dimba.trainers.objectives.registry import Row, training_half
from dimba.trainers.progress import throttled

_SECONDS = 0.5  # between progress lines


def main(argv: list[str]) -> int:
    """Prints the rows that the flags after the mode hold out; returns the exit status."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # read when transformers is imported
    mode, *flags = argv
    try:
        options = OBJECTIVES[mode].parse(flags)
        use_cache_if_unreachable(options, weights=False)
        options = at_revision(options, weights=False)
        report = throttled(_SECONDS, lambda rows: _print_json(rows=rows))
        found = training_half(mode).held_out_rows(options, report)
        rows = [(str(where), row) for where, row in found.rows]
        if found.rewards:
            _print_json(rewards=found.rewards)
        for where, row in rows:
            _print_json(row={"where": where, **_as_json(row)})
        _print_overlaps(options, [(where, _compared(row)) for where, row in rows])
    except DimbaError as error:
        _print_json(error=error.as_json())
        return error.exit_status
    return 0


def _as_json(row: Row) -> dict[str, Any]:
    if isinstance(row, PromptExample):
        return {"example": row.as_json()}
    sides = zip(("sample", "rejected"), row, strict=False)
    return {name: side.as_json() for name, side in sides}


def _compared(row: Row) -> Sample:
    return sample_of(row) if isinstance(row, PromptExample) else row[0]


def _print_overlaps(options: TrainerOptions, rows: Sequence[tuple[str, Sample]]) -> None:
    index = OverlapIndex({number: words_of(sample) for number, (_, sample) in enumerate(rows)})
    is_apart = held_out_rows(options)[1] is not None
    places = set() if is_apart else {where for where, _ in rows}
    for source in sources_from(options):
        trained = training_words(source.rows, source.columns)
        index.compare((str(where), words) for where, words in trained if str(where) not in places)
    for number, overlap in index.found.items():
        _print_json(overlap={"number": number, **overlap.as_json()})
    _print_json(done=index.compared)


def _print_json(**value: Any) -> None:
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
