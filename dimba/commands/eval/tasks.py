"""Tasks of lm-eval: looked at before a GPU is leased, run on each loaded model, and compared document by document."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from dimba.commands.eval.overlap import data_sets, document_overlap
from dimba.commands.eval.request import Contestants, EvalRequest
from dimba.commands.eval.rows import EvalRow, trainer_flags
from dimba.commands.eval.statistics import LEAST
from dimba.commands.eval.task_files import TaskFiles, find_task_files
from dimba.commands.talk.session import ModelSession
from dimba.common.contract import is_path, read_json_object
from dimba.common.errors import BadInput, DimbaError, HostCannot, from_json
from dimba.common.json_lines import event_in
from dimba.common.tasks import MODULE, NamedTasks, TaskFacts, TaskRequest, TaskValues
from dimba.dataset.files import read_rows
from dimba.dataset.samples import Sample
from dimba.dataset.summary import samples_of
from dimba.host.build_context import EVAL
from dimba.jobs.lifecycle import Reporter
from dimba.jobs.model_source import ModelSource
from dimba.jobs.place import last_lines, one_shot, supervised_command
from dimba.plan.model import Mount
from dimba.plan.mounts import same_place
from dimba.records.store import make_folder
from dimba.runners.protocol import OneShot

_NO_LIMIT = 7 * 24 * 3600.0  # seconds, of reading the data of tasks
_LABEL, _LAST_LABEL = re.compile(r"\A\s*[^\W\d][\w ]{0,20}:"), re.compile(r"\n[^\W\d][\w ]{0,20}:\s*\Z")
_ROWS = 100  # of training data, of which one is chat or text
_GIVE = "name tasks with more documents, or raise `--limit`"


@dataclass(frozen=True, kw_only=True)
class TaskSet:
    """The tasks of an evaluation: what they are, their documents, and what the code that runs them reads.

    `left_out`: documents, as (task, number), that stand in training data.
    """

    request: TaskRequest
    files: TaskFiles
    version: str  # of lm-eval
    facts: Mapping[str, TaskFacts]
    named: tuple[NamedTasks, ...]
    overlap: Mapping[str, Any] = field(default_factory=dict)
    left_out: frozenset[tuple[str, int]] = frozenset()
    notes: tuple[str, ...] = ()

    @property
    def mounts(self) -> tuple[Mount, ...]:
        """What tasks read, at the same places."""
        return _mounts(self.files)

    @property
    def source(self) -> str:
        """The tasks in words."""
        names = [each.name for each in self.named]
        return f"the task{'s' * (len(names) > 1)} {', '.join(names)}"

    def as_json(self) -> dict[str, Any]:
        """How the tasks were run."""
        prompts = "chat" if self.request.chat else "plain"
        tasks = {
            name: {"documents": each.documents, "fewshot": each.fewshot, "metric": each.metric}
            for name, each in self.facts.items()
        }
        names = {each.name: list(each.tasks) for each in self.named}
        own = {"lm_eval": self.version, "prompts": prompts, "limit": self.request.limit, "named": names}
        return {**own, "tasks": tasks, "overlap": dict(self.overlap)}


def gather_tasks(request: EvalRequest, contestants: Contestants, reporter: Reporter) -> TaskSet:
    """The tasks that a command line names, without a GPU; raises DimbaError for what cannot be run or compared."""
    for each in (*contestants.models, contestants.against):
        if each.trained.gguf:
            raise BadInput("lm-eval does not ask GGUF files", f"give {each.folder}", file=each.trained.gguf)
    files = find_task_files(request.tasks, trusts_code=request.trusts_task_code)
    asked = TaskRequest(
        names=files.names,
        limit=request.limit,
        fewshot=request.fewshot,
        chat=not request.plain_tasks and is_chat(contestants.models[0]),
        trusts_code=request.trusts_task_code,
        batch_size=request.batch_size,
    )
    found = _look(contestants.models[0], asked, files, reporter)
    documents = without_labels(found.documents, found.places)
    overlap = document_overlap(documents, contestants, request, reporter)
    left_out = frozenset() if overlap.is_kept else frozenset(found.places[number] for number in overlap.found)
    _require_enough(found, left_out)
    return TaskSet(
        request=asked,
        files=files,
        version=found.version,
        facts=found.facts,
        named=tuple(found.named),
        overlap=overlap.as_json(found.documents),
        left_out=left_out,
        notes=overlap.notes,
    )


def without_labels(documents: Sequence[EvalRow], places: Sequence[tuple[str, int]]) -> list[EvalRow]:
    """The documents without the labels of their task's template, such as `Question:`, which training rows lack."""
    questions: dict[str, list[str]] = {}
    for row, (task, _) in zip(documents, places, strict=True):
        questions.setdefault(task, []).append(_question(row))
    labels = {task: tuple(_shared(each, texts) for each in (_LABEL, _LAST_LABEL)) for task, texts in questions.items()}
    return [_stripped(row, *labels[task]) for row, (task, _) in zip(documents, places, strict=True)]


def _question(row: EvalRow) -> str:
    return str(row.sample.messages[0]["content"]) if row.sample else ""


def _shared(pattern: re.Pattern[str], texts: Sequence[str]) -> str:
    """The label that all texts have; empty if one of them has none, or another."""
    found = {match[0] if (match := pattern.search(text)) else "" for text in texts}
    return found.pop() if len(found) == 1 and len(texts) > 1 else ""


def _stripped(row: EvalRow, first: str, last: str) -> EvalRow:
    if row.sample is None or not (first or last):
        return row
    question, answer = row.sample.messages
    text = _question(row).removeprefix(first).removesuffix(last)
    return replace(row, sample=replace(row.sample, messages=({**question, "content": text}, answer)))


def is_chat(source: ModelSource) -> bool:
    """Whether prompts are rendered by the chat template: as the run trained, or if the folder has a template."""
    flags = trainer_flags(source)
    for data in data_sets(source.spec.objective.parse(flags)) if flags else ():
        if is_path(data.dataset) and (sample := _first_sample(Path(data.dataset).expanduser(), data)):
            return sample.text is None
    places = [source.folder, *([Path(source.trained.base)] if source.trained.is_adapter else [])]
    return any(_has_template(each) for each in places)


def _first_sample(file: Path, data: Any) -> Sample | None:
    try:
        found = islice(samples_of(read_rows(file, data.split), data.columns)[1], _ROWS)
        return next((each for _, each in found if isinstance(each, Sample)), None)
    except BadInput:  # prompts or pairs, which are chats, or data that are gone
        return None


def _has_template(folder: Path) -> bool:
    config = read_json_object(folder / "tokenizer_config.json")
    return bool(config.get("chat_template")) or (folder / "chat_template.jinja").is_file()


def _mounts(files: TaskFiles) -> tuple[Mount, ...]:
    return tuple(same_place(each, read_only=True) for each in files.places)


def _look(source: ModelSource, asked: TaskRequest, files: TaskFiles, reporter: Reporter) -> "_Listener":
    """The tasks as the code that runs them finds them, where it runs, with their data fetched into the cache."""
    source = source.prepared(reporter, EVAL)
    facts, listener = source.facts, _Listener(reporter)
    make_folder(facts.cache, facts.output.uid, facts.output.gid)
    request = json.dumps({"tasks": asked.as_json(), "model": source.trained.as_json()})
    done = source.runner.run_once(supervised_command(facts, MODULE, request), _place(source, files), listener)
    reporter.ended()
    if listener.error:
        raise listener.error
    if not listener.version:
        raise HostCannot(f"looking at the tasks failed:\n{last_lines(done.text)}", "run `dimba doctor`")
    return listener


def _place(source: ModelSource, files: TaskFiles) -> OneShot:
    mounts = {each.target: each for each in (*_mounts(files), *source.mounts())}
    is_local = files.is_local and source.is_local
    return one_shot(source.spec, source.facts, tuple(mounts.values()), is_local=is_local, timeout=_NO_LIMIT)


class _Listener:
    """Receives the JSON lines of `dimba.trainers.tasks`; other lines come from libraries."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self.facts: dict[str, TaskFacts] = {}
        self.named: list[NamedTasks] = []
        self.documents: list[EvalRow] = []
        self.places: list[tuple[str, int]] = []  # of documents: task and number
        self.version = ""
        self.error: DimbaError | None = None

    def __call__(self, line: str) -> None:
        if event := event_in(line):
            self._take(*event)

    def _take(self, kind: str, found: Any) -> None:
        if kind == "step":
            self._reporter.progress(str(found), 0, 0)
        elif kind == "task":
            self.facts[found["name"]] = TaskFacts.from_json(found)
        elif kind == "document":
            self._add(found["task"], int(found["number"]), found["question"], found["answer"])
        elif kind == "named":
            self.named.append(NamedTasks.from_json(found))
        elif kind == "error":
            self.error = from_json(found)
        elif kind == "done":
            self.version = str(found)

    def _add(self, task: str, number: int, question: str, answer: str) -> None:
        turns = ({"role": "user", "content": question}, {"role": "assistant", "content": answer})
        where, sample = f"{task}: document {number}", Sample(messages=turns, trained=(False, True))
        self.documents.append(EvalRow(number=len(self.documents), where=where, sample=sample))
        self.places.append((task, number))


def _require_enough(found: _Listener, left_out: frozenset[tuple[str, int]]) -> None:
    """Raises BadInput for a name with fewer documents than can show anything."""
    for each in found.named:
        facts = [found.facts[name] for name in each.tasks]
        usable = sum(task in each.tasks and (task, number) not in left_out for task, number in found.places)
        if usable < LEAST and any(one.per_document for one in facts):
            outside = " outside of the training data" if left_out else ""
            problem = f"{usable} document{'s' * (usable != 1)} of `{each.name}`{outside} cannot show which is better"
            raise BadInput(problem, f"{_GIVE}: {LEAST} are the least")


def run_tasks(session: ModelSession, tasks: TaskSet, reporter: Reporter, *, models: int) -> list[dict[str, TaskValues]]:
    """What each loaded model achieves in each task, by the task's name."""
    found: list[dict[str, TaskValues]] = [{} for _ in range(models)]
    for each in session.tasks(tasks.request):
        if "values" in each:
            values = TaskValues.from_json(each["values"])
            found[each["model"]][values.name] = values
        else:
            task, done, total = each["progress"]
            reporter.progress(f"{task}, model {each['model'] + 1} of {models}", done, total)
    reporter.ended()
    return found


def cut_notes(name: str, found: Mapping[str, TaskValues]) -> Iterator[str]:
    """The prompts of which a model's context had no room for the beginning, task by task."""
    for each in found.values():
        if each.cut:
            yield (
                f"{each.cut:,} of {each.requests:,} prompts of {each.name} lost their beginning: "
                f"the context of {name} is too short for them"
            )
