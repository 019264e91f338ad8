"""The work of `dimba generate --file`: which rows, by which models, into which file."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dimba.commands.talk.request import TalkRequest
from dimba.commands.talk.rows import AnswerFile, Progress, Row, answer_rows, named_columns, rows_of
from dimba.commands.talk.session import ModelSession
from dimba.common.contract import absolute
from dimba.host.fingerprint import fingerprint
from dimba.jobs.model_source import ModelSource


@dataclass
class FileWork:
    """A file of rows, and the file of their answers."""

    source: Path
    out: Path
    rows: list[Row]
    request: TalkRequest
    batch_size: int
    answers: AnswerFile | None = None
    models: int = 1

    @classmethod
    def begin(
        cls, file: str, out: str | None, request: TalkRequest, columns: Sequence[str], *, batch_size: int
    ) -> "FileWork":
        """Reads the rows; raises BadInput."""
        source = absolute(file)
        name = source.name.partition(".")[0] or "rows"
        rows = rows_of(source, named_columns(columns), request.system)
        return cls(source, absolute(out or f"{name}.answers.jsonl"), rows, request, batch_size)

    def open(self, source: ModelSource, against: ModelSource | None, progress: Progress, *, force: bool) -> int:
        """Finds the answers that an earlier command has written, and returns their number; raises BadInput."""
        models = [each.trained.as_json() for each in (source, against) if each]
        read = partial(progress, "hashing the model and the rows")
        weights = [fingerprint(each.folder, read) for each in (source, against) if each]
        header = {
            "rows": fingerprint(self.source, read),
            "models": models,
            "weights": weights,
            "system": self.request.system,
            **self.request.sampling.as_json(),
        }
        self.models = len(models)
        self.answers = AnswerFile(self.out, header, force=force)
        return len(self.answers.done)

    def run(self, session: ModelSession, progress: Progress) -> int:
        """Writes what is missing; returns the number of rows without an answer."""
        assert self.answers is not None, "`open` comes first"
        failed = 0
        rows, of = [row for row in self.rows if row.number + 1 not in self.answers.done], len(self.rows)

        def lines() -> Iterator[dict[str, Any]]:
            nonlocal failed
            sampling, size = self.request.sampling, self.batch_size
            for line in answer_rows(session, rows, sampling, size, progress, models=self.models, of=of):
                failed += "error" in line
                yield line

        self.answers.write(lines())
        return failed
