"""Runs tasks on a loaded model by lm-eval, and takes the value of each document from its log of samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from lm_eval.evaluator import evaluate

from dimba.common.errors import DimbaError, RunFailed, kind_and_line
from dimba.common.tasks import TaskRequest, TaskValues
from dimba.trainers.models.gpu_errors import out_of_memory
from dimba.trainers.tasks.find import FoundTasks, configure
from dimba.trainers.tasks.metrics import choose_metric
from dimba.trainers.tasks.model import SpeakerModel
from dimba.trainers.tasks.prompts import TaskPrompts

if TYPE_CHECKING:
    from dimba.trainers.inference.speaker import Speaker

Progress = Callable[[str, int, int], None]  # (task, requests done, requests)


def measure(speaker: Speaker, found: FoundTasks, request: TaskRequest, progress: Progress) -> Iterator[TaskValues]:
    """What the model achieves in each task; raises RunFailed for a task that fails."""
    loaded = speaker.loaded
    prompts = TaskPrompts(loaded.tokenizer, loaded.settings, is_chat=request.chat)
    for name, task in found.tasks.items():
        configure(task, request)
        report = partial(_report, progress, name, task)
        model = SpeakerModel(speaker, prompts, request.batch_size, report)
        yield _values(name, task, model, _evaluated(name, task, model, request))


def _report(progress: Progress, name: str, task: Any, done: int) -> None:
    progress(name, done, len(task.instances or ()))


def _evaluated(name: str, task: Any, model: SpeakerModel, request: TaskRequest) -> Mapping[str, Any]:
    try:
        return evaluate(
            lm=model,
            task_dict={"tasks": {name: task}},
            limit=request.limit,
            bootstrap_iters=0,
            apply_chat_template=request.chat,
            fewshot_as_multiturn=True,
            confirm_run_unsafe_code=request.trusts_code,
        )
    except DimbaError:
        raise
    except Exception as error:  # whatever a task's own code may raise
        if isinstance(error, RuntimeError) and out_of_memory(error):
            raise
        raise RunFailed(f"the task `{name}` fails: {kind_and_line(error)}", "leave it out of --tasks") from error


def _values(name: str, task: Any, model: SpeakerModel, found: Mapping[str, Any]) -> TaskValues:
    metric, samples = choose_metric(task, name), found["samples"][name]
    first = samples[0]["filter"]
    values = {}
    for each in samples:
        if metric.value and each["filter"] == first and each.get(metric.name) is not None:
            value = metric.value(each[metric.name])
            if math.isfinite(value):
                values[str(each["doc_id"])] = value
    figures = _figures(found["results"][name])
    return TaskValues(name=name, values=values, figures=figures, requests=model.requests, cut=model.cut)


def _figures(results: Mapping[str, Any]) -> dict[str, float]:
    """lm-eval's own figures, by `metric,filter`."""
    numbers = {key: each for key, each in results.items() if isinstance(each, int | float) and "," in key}
    return {key: float(each) for key, each in numbers.items() if "_stderr" not in key and math.isfinite(each)}
