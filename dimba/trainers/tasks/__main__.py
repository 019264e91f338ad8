"""What tasks are before any model answers, without a GPU: `python -m dimba.trainers.tasks REQUEST`.

The request is JSON: `tasks` (a TaskRequest) and `model` (a TrainedModel, whose chat template the prompts must suit).
Prints JSON lines: `{"step": …}` while it works, `{"task": {…}}` and its `{"document": {…}}`, `{"named": {…}}` for each
name, and `{"done": version of lm-eval}` or `{"error": {…}}`.
"""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from dimba.common.errors import BadInput, DimbaError, UnusableRow, kind_and_line
from dimba.common.tasks import TaskFacts, TaskRequest
from dimba.common.trained import TrainedModel
from dimba.supervisor.job_secrets import read_secrets


def main(argv: list[str]) -> int:
    """Prints the tasks of a request; returns the exit status."""
    os.environ.update(read_secrets())
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # read when transformers is imported
    asked = json.loads(argv[0])
    try:
        _report(TaskRequest.from_json(asked["tasks"]), TrainedModel.from_json(asked["model"]))
    except DimbaError as error:
        _print(error=error.as_json())
        return error.exit_status
    return 0


def _report(request: TaskRequest, trained: TrainedModel) -> None:
    import lm_eval  # a second, and datasets with it

    from dimba.trainers.tasks.find import find_tasks

    _print(step="finding the tasks")
    found = find_tasks(request)
    prompts = _prompts(trained) if request.chat else None
    for name, task in found.tasks.items():
        _print(step=f"reading {name}")
        _print(task=_facts(name, task, request, prompts).as_json())
        for number, question, answer in _documents(task, request.limit):
            _print(document={"task": name, "number": number, "question": question, "answer": answer})
    for each in found.named:
        _print(named=each.as_json())
    _print(done=lm_eval.__version__)


def _prompts(trained: TrainedModel) -> Any:
    from dimba.trainers.data.render import TemplateSettings
    from dimba.trainers.models.trained import trained_tokenizer  # torch, seconds
    from dimba.trainers.tasks.prompts import TaskPrompts

    return TaskPrompts(trained_tokenizer(trained), TemplateSettings.of(trained), is_chat=True)


def _facts(name: str, task: Any, request: TaskRequest, prompts: Any) -> TaskFacts:
    from dimba.trainers.tasks.find import configure
    from dimba.trainers.tasks.metrics import choose_metric

    metric = choose_metric(task, name)
    configure(task, request)
    try:
        task.build_all_requests(
            limit=request.limit,
            apply_chat_template=request.chat,
            fewshot_as_multiturn=True,
            chat_template=prompts.render if prompts else None,
        )
    except UnusableRow as error:
        hint = "leave it out of --tasks, or give its prompts without the template: `--plain-tasks`"
        raise BadInput(f"a prompt of the task `{name}`: {error.cause}", hint) from None
    except Exception as error:  # whatever a task's own code may raise
        hint = "leave it out of --tasks, or correct its file"
        raise BadInput(f"the prompts of the task `{name}` fail: {kind_and_line(error)}", hint) from None
    return TaskFacts(
        name=name,
        metric=metric.name,
        label=metric.label,
        higher_is_better=metric.higher_is_better,
        per_document=metric.value is not None,
        documents=len({each.doc_id for each in task.instances}),
        fewshot=int(task.get_config("num_fewshot") or 0),
        output_type=str(task.OUTPUT_TYPE),
    )


def _documents(task: Any, limit: int | None) -> Iterator[tuple[int, str, str]]:
    """(number, question, answer) of each document, as it is compared with training data."""
    for number, document in task.doc_iterator(limit=limit):
        question, answer = task.doc_to_text(document), task.doc_to_target(document)
        if isinstance(question, str):
            yield number, question, _answer(task, document, answer)
        else:  # the choices are whole texts, of which the question names the right one
            yield number, str(_choices(task, document)[question]), str(answer)


def _answer(task: Any, document: Mapping[str, Any], answer: Any) -> str:
    first = answer[0] if isinstance(answer, list) and answer else answer
    choices = _choices(task, document)
    is_number = isinstance(first, int) and not isinstance(first, bool) and 0 <= first < len(choices)
    return str(choices[first]) if is_number else str(first)


def _choices(task: Any, document: Mapping[str, Any]) -> list[Any]:
    return list(task.doc_to_choice(document)) if task.get_config("doc_to_choice") is not None else []


def _print(**value: Any) -> None:
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
