"""Loaded models that answer, in the image of the run or as a process; they have ended after the block."""

import json
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from types import MappingProxyType
from typing import Any

from dimba.common import inference
from dimba.common.errors import DimbaError, RunFailed, first_line, from_json
from dimba.common.inference import Answer, Prompt, RowLoss, Sampling, Scoring
from dimba.common.json_lines import event_in
from dimba.common.tasks import TaskRequest
from dimba.dataset.samples import Sample
from dimba.jobs.lifecycle import Reporter
from dimba.jobs.model_place import place_of
from dimba.jobs.model_source import ModelSource
from dimba.jobs.place import module_command
from dimba.plan.model import Mount
from dimba.runners.protocol import Conversation
from dimba.spec.secrets import mask_secrets

OnPart = Callable[[str, str], None]  # (kind, text)
_OUTPUT_LINES = 15
_MODULE = "dimba.trainers.inference"


@dataclass
class ModelSession:
    """One or two loaded models, by number; `stop` ends the answer that is being generated."""

    conversation: Conversation
    reporter: Reporter
    secrets: Sequence[str] = ()
    noise: deque[str] = field(default_factory=lambda: deque(maxlen=_OUTPUT_LINES))  # of libraries, shown if it fails

    def __post_init__(self) -> None:
        self._lines = self.conversation.lines()

    def load(self, request: dict[str, Any]) -> None:
        """Loads the models; raises DimbaError."""
        self._send(inference.LOAD, request)
        for kind, value in self._events():
            if kind == inference.READY:
                return
            self.reporter.note(str(value))

    def ask(self, prompt: Prompt, sampling: Sampling, on_part: OnPart, model: int = 0) -> Answer:
        """The answer to a prompt, whose parts go to `on_part` as they come; raises DimbaError."""
        self._send(inference.ASK, {"model": model, "prompt": prompt.as_json(), "sampling": sampling.as_json()})
        events = self._events()
        while (event := next(events))[0] != inference.DONE:
            on_part(*event)
        return Answer.from_json(event[1])

    def answers(
        self, prompts: Sequence[Prompt], sampling: Sampling, batch_size: int, model: int = 0
    ) -> Iterator[Answer]:
        """The answers of many prompts as they come, in any order; raises DimbaError."""
        asked = {"model": model, "prompts": [each.as_json() for each in prompts], "batch_size": batch_size}
        return map(Answer.from_json, self._rows(inference.BATCH, {**asked, "sampling": sampling.as_json()}))

    def losses(self, rows: Iterable[tuple[int, Sample]], scoring: Scoring, model: int = 0) -> Iterator[RowLoss]:
        """The loss of each row by number as they come, in any order; raises DimbaError."""
        asked = [{"number": number, "sample": sample.as_json()} for number, sample in rows]
        request = {"model": model, "rows": asked, "scoring": scoring.as_json()}
        return map(RowLoss.from_json, self._rows(inference.SCORE, request))

    def rewards(self, asked: Mapping[str, Any]) -> Iterator[tuple[int, list[float | None]]]:
        """The scores of answers by the number of their row, as they come; raises DimbaError."""
        return ((int(each["number"]), each["scores"]) for each in self._rows(inference.REWARD, asked))

    def tasks(self, request: TaskRequest) -> Iterator[dict[str, Any]]:
        """What the models achieve in tasks, and the progress, as they come, each with the model; raises DimbaError."""
        return self._rows(inference.TASKS, {"tasks": request.as_json()})

    def _rows(self, kind: str, request: Mapping[str, Any]) -> Iterator[Any]:
        """The rows that answer a request, as they come."""
        self._send(kind, request)
        for found, value in self._events():
            if found == inference.DONE:
                return
            yield value

    def stop(self) -> None:
        """Ends the answer that is being generated."""
        self._send(inference.STOP, True)

    def _send(self, kind: str, value: Any) -> None:
        self.conversation.send(json.dumps({kind: value}))

    def _events(self) -> Iterator[tuple[str, Any]]:
        for line in self._lines:
            event = event_in(line)
            if event is None:
                self.noise.append(line)
            elif event[0] == inference.ERROR:
                raise from_json(event[1])
            else:
                yield event
        raise self.failure()

    def failure(self) -> DimbaError:
        """Why the process has ended; waits for its end."""
        status = self.conversation.wait()
        output = mask_secrets("\n".join(self.noise), self.secrets)
        return RunFailed(
            f"the model's process ended with status {status}:\n{output}", "`dimba doctor` checks this machine"
        )


class Watched:
    """A conversation whose lines are read as they come, so that `on_end` is called at its end, not at the next line."""

    def __init__(self, conversation: Conversation, on_end: Callable[[], None]) -> None:
        self._conversation, self._on_end = conversation, on_end
        self._lines: SimpleQueue[str | None] = SimpleQueue()
        self.send, self.wait = conversation.send, conversation.wait
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            for line in self._conversation.lines():
                self._lines.put(line)
        except Exception as error:  # whatever it is, nothing more can be read
            self._lines.put(first_line(error))
        finally:
            self._lines.put(None)
            self._on_end()

    def lines(self) -> Iterator[str]:
        """The lines of its output."""
        while (line := self._lines.get()) is not None:
            yield line


@contextmanager
def model_session(
    source: ModelSource,
    command: str,
    reporter: Reporter,
    against: ModelSource | None = None,
    *,
    on_end: Callable[[], None] | None = None,
    module: str = _MODULE,
    image: str | None = None,
    writable: Sequence[Path] = (),
    mounts: Sequence[Mount] = (),
    online: bool = False,
    load: Mapping[str, Any] = MappingProxyType({}),
) -> Iterator[ModelSession]:
    """The models of `source` and `against`, loaded; waits for its GPU's turn. Raises DimbaError.

    `on_end` is called in another thread when the process ends, also between two answers. `module` is what loads them,
    `image` an extra of the image that it needs, `writable` folders that it writes, `mounts` beyond those of the models,
    `online` if it needs the network, `load` further values of its first request.
    """
    beside = [against] if against else []
    extras = [image, *(one.image_extra for one in (source, *beside))]
    source = source.prepared(reporter, next(filter(None, extras), None))
    with (
        place_of(source, command, reporter, beside=beside, mounts=mounts, writable=writable, online=online) as place,
        source.runner.converse(module_command(source.facts, module), place) as conversation,
    ):
        talk = Watched(conversation, on_end) if on_end else conversation
        session = ModelSession(talk, reporter, tuple((place.secrets or {}).values()))
        models = [one.trained.as_json() for one in (source, *beside)]
        session.load({"models": models, "gpus": len(place.gpus), **load})
        yield session
