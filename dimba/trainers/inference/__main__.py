"""Answers over stdin and stdout, as `dimba.common.inference` describes: `python -m dimba.trainers.inference`."""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from dimba.common import inference
from dimba.common.errors import BadInput, DimbaError, Location
from dimba.common.inference import Answer, Prompt, Sampling
from dimba.common.tasks import TaskRequest
from dimba.dataset.samples import Sample
from dimba.supervisor.job_secrets import read_secrets

_WHERE = Location("the prompt")
_GRACE = 5  # seconds from the end of stdin to that of the process


def main() -> int:
    """Loads what the first line names, and answers until stdin closes; returns the exit status."""
    os.environ.update(read_secrets())
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # read when transformers is imported
    lines = Lines()
    try:
        worker = _worker(next(lines.requests()), lines)
        for request in lines.requests():
            worker.handle(request)
    except StopIteration:
        return 0
    except DimbaError as error:
        _print(inference.ERROR, error.as_json())
        return error.exit_status
    return 0


class Lines:
    """Requests from stdin, read in a thread of their own so that `stop` is noticed while an answer is generated."""

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self.stopped = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in sys.stdin:
            request = json.loads(line)
            if inference.STOP in request:
                self.stopped.set()
            else:  # the host has read the answer before, so that an earlier `stop` is not for this one
                self.stopped.clear()
                self._queue.put(request)
        self.stopped.set()  # the host has ended: nothing waits for the answer
        self._queue.put(None)
        time.sleep(_GRACE)  # a model that is being loaded, or reads a long prompt, notices neither
        os._exit(1)

    def requests(self) -> Iterator[dict[str, Any]]:
        """The requests in order, until stdin closes."""
        while (request := self._queue.get()) is not None:
            yield request


def _worker(request: Mapping[str, Any], lines: Lines) -> Worker:
    from dimba.trainers.inference.loading import load_speakers  # torch, which the thread above need not wait for

    speakers = load_speakers(request[inference.LOAD], lambda text: _print(inference.NOTE, text))
    _print(inference.READY, {"context": speakers[0].context})
    return Worker(speakers, lines.stopped.is_set)


class Worker:
    """Answers requests with the loaded models."""

    def __init__(self, speakers: list[Any], is_stopped: Any) -> None:
        self._speakers, self._is_stopped = speakers, is_stopped

    def handle(self, request: Mapping[str, Any]) -> None:
        """Answers a request; a prompt that cannot be answered is an `error` line, and the next request is read."""
        try:
            if inference.ASK in request:
                self._ask(request[inference.ASK])
            elif inference.SCORE in request:
                self._score(request[inference.SCORE])
            elif inference.REWARD in request:
                self._reward(request[inference.REWARD])
            elif inference.TASKS in request:
                self._tasks(request[inference.TASKS])
            else:
                self._batch(request[inference.BATCH])
        except BadInput as error:
            _print(inference.ERROR, error.as_json())
        except RuntimeError as error:
            _print(inference.ERROR, _without_memory(error).as_json())

    def _ask(self, asked: Mapping[str, Any]) -> None:
        speaker = self._speakers[int(asked.get("model", 0))]
        encoded = speaker.encode(Prompt.from_json(asked["prompt"]), _WHERE)
        answer: Answer = speaker.stream(encoded, _sampling(speaker, asked), _print, self._is_stopped)
        _print(inference.DONE, answer.as_json())

    def _batch(self, asked: Mapping[str, Any]) -> None:
        from dimba.trainers.inference.batches import answer_all

        speaker = self._speakers[int(asked.get("model", 0))]
        prompts = [Prompt.from_json(each) for each in asked["prompts"]]
        sampling, size = _sampling(speaker, asked), int(asked["batch_size"])
        for answer in answer_all(speaker, prompts, sampling, size, self._is_stopped):
            _print(inference.ROW, answer.as_json())
        _print(inference.DONE, {})

    def _score(self, asked: Mapping[str, Any]) -> None:
        from dimba.trainers.inference.scoring import score_all

        speaker, scoring = self._speakers[int(asked.get("model", 0))], inference.Scoring(**asked["scoring"])
        rows = [(int(each["number"]), Sample.from_json(each["sample"])) for each in asked["rows"]]
        for loss in score_all(speaker, rows, scoring, self._is_stopped):
            _print(inference.ROW, loss.as_json())
        _print(inference.DONE, {})

    def _reward(self, asked: Mapping[str, Any]) -> None:
        from dimba.trainers.inference.rewarding import rewards_of

        for number, scores in rewards_of(self._speakers[0], asked):
            _print(inference.ROW, {"number": number, "scores": scores})
        _print(inference.DONE, {})

    def _tasks(self, asked: Mapping[str, Any]) -> None:
        from dimba.trainers.tasks.find import find_tasks  # lm-eval, which is in an image of its own
        from dimba.trainers.tasks.measure import measure

        request = TaskRequest.from_json(asked["tasks"])
        found = find_tasks(request)
        for model, speaker in enumerate(self._speakers):
            for values in measure(speaker, found, request, partial(_progress, model)):
                _print(inference.ROW, {"model": model, "values": values.as_json()})
        _print(inference.DONE, {})


def _progress(model: int, task: str, done: int, total: int) -> None:
    _print(inference.ROW, {"model": model, "progress": [task, done, total]})


def _sampling(speaker: Any, asked: Mapping[str, Any]) -> Sampling:
    """How the request samples; raises BadInput for a value that the model does not have."""
    sampling = Sampling(**asked["sampling"])
    speaker.require(sampling)
    return sampling


def _without_memory(error: RuntimeError) -> BadInput:
    """The refusal of a prompt that the GPU has no room for; raises any other error."""
    from dimba.trainers.models.gpu_errors import out_of_memory

    if not out_of_memory(error):
        raise error
    return BadInput("the GPU ran out of memory in this answer", "shorten the conversation, or limit the answer")


def _print(kind: str, value: Any) -> None:
    sys.stdout.write(json.dumps({kind: value}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
