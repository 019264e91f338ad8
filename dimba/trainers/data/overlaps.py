"""The rows of an evaluation that stand in a data set of the Hub: `python -m dimba.trainers.data.overlaps SOURCE`.

SOURCE is JSON, the fields of a MixtureSource. Stdin has one JSON line: the words of each row by its number. Prints JSON
lines: `{"rows": n}` while it reads, `{"overlap": {…}}` for each row that stands there, then `{"done": n}`, the rows of
the data set, or `{"error": {…}}`.
"""

import json
import os
import sys
from collections.abc import Iterator
from typing import Any

from dimba.common.errors import DimbaError
from dimba.dataset.overlap import OverlapIndex, Words, training_words
from dimba.supervisor.job_secrets import read_secrets
from dimba.trainers.data.rows import Source
from dimba.trainers.progress import throttled

_SECONDS = 0.5  # between progress lines


def main(argv: list[str]) -> int:
    """Prints the overlap of rows with a data set; returns the exit status."""
    os.environ.update(read_secrets())
    rows = {int(number): tuple(words) for number, words in json.loads(sys.stdin.readline()).items()}
    index = OverlapIndex(rows)
    try:
        index.compare(_words(Source(**json.loads(argv[0]))))
    except DimbaError as error:
        _print(error=error.as_json())
        return error.exit_status
    for number, overlap in index.found.items():
        _print(overlap={"number": number, **overlap.as_json()})
    _print(done=index.compared)
    return 0


def _words(source: Source) -> Iterator[tuple[str, Words]]:
    report = throttled(_SECONDS, lambda count: _print(rows=count))
    for count, (where, words) in enumerate(training_words(source.rows, source.columns)):
        report(count)
        yield str(where), words


def _print(**value: Any) -> None:
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
