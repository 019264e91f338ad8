"""From the flags of GRPO to prompts, what their answers are held against, and a report of both."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from dimba.common.errors import BadInput, BadRow
from dimba.dataset.prompt_examples import LeftOut, Tally, Task, TaskForm, tasks_of
from dimba.dataset.token_report import BadRowReport, DataReport, Part, Shown
from dimba.objectives.grpo import GrpoOptions
from dimba.objectives.rewards import REWARDS, RewardSpec, parse_rewards
from dimba.trainers.data.chat import ChatEncoder, prepare_tokenizer
from dimba.trainers.data.loading import source_of
from dimba.trainers.data.prompt_rendering import prompted
from dimba.trainers.data.reporting import histogram, telling
from dimba.trainers.data.selection import hold_out
from dimba.trainers.data.template_notes import faults_problem
from dimba.trainers.data.tokenization import Problem, Progress, row_problem
from dimba.trainers.models.loading import load_context, load_tokenizer
from dimba.trainers.rewards import check_reference, choose, needs_reference

_SHOWN = 5  # bad rows that are told
_SHOWN_LETTERS = 300  # of what an example is held against


class Asked(NamedTuple):
    """One task, where its row stands, and the tokens of its prompt."""

    where: str
    task: Task
    tokens: int


@dataclass(frozen=True)
class Prompts:
    """What is asked in training, what is held out, and how the answers are rewarded."""

    tokenizer: Any
    train: tuple[Asked, ...]
    held_out: tuple[Asked, ...]
    rewards: tuple[RewardSpec, ...]
    turn_ends: tuple[str, ...]
    report: DataReport

    def checked(self) -> "Prompts":
        """Itself; raises BadInput where it cannot be trained on as it is."""
        if self.report.problem:
            raise BadInput(self.report.problem, self.report.hint)
        return self


@dataclass
class _Read:
    """Rows, as far as they have been looked at."""

    form: TaskForm
    rows: int = 0
    tasks: list[tuple[str, Task]] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)
    left_out: Tally = field(default_factory=Tally)
    faults: Counter[str] = field(default_factory=Counter)  # of the chat template, in these words

    @property
    def note(self) -> dict[str, Any]:
        told = [{"where": each.where, "why": each.why} for each in self.bad[:_SHOWN]]
        return {"rows": self.rows, "unusable": len(self.bad), "bad": told}


def load_prompts(args: GrpoOptions, progress: Progress) -> Prompts:
    """Reads the rows, finds out how to reward answers, and measures the prompts; raises BadInput."""
    limit = prompt_limit(args)
    tokenizer = load_tokenizer(args.base_checkpoint, code=args.trust_remote_code)
    said, ends = prepare_tokenizer(tokenizer), turn_ends(tokenizer)
    read = _read(args, progress)
    if not read.tasks and (nothing := _unusable(args, read)):
        raise BadInput(*nothing)  # no reward can be chosen for no rows
    rewards, why = _rewards(args, read)
    asked = _asked(tokenizer, read, pairs=_learnt(rewards))
    fitting = [each for each in asked if each.tokens <= limit]
    train, held_out = _held_out(fitting, args)
    problem, hint = _problem(args, read, asked, train, limit, tokenizer=tokenizer)
    notes = (said, f"reward: {why}", *_idle(rewards, args), *read.left_out.notes(len(read.tasks)), *_notes(asked))
    report = _report(read, asked, limit, args, notes=tuple(note for note in notes if note))
    report = replace(report, examples=len(train), validation=len(held_out), problem=problem, hint=hint)
    return Prompts(tokenizer, tuple(train), tuple(held_out), rewards, ends, report)


def prompt_limit(args: GrpoOptions) -> int:
    """Tokens that a prompt may have, so that a whole completion fits behind it; raises BadInput."""
    context = load_context(args.base_checkpoint, code=args.trust_remote_code)
    whole = min(args.max_length, context or args.max_length)
    limit = whole - args.max_completion_length
    if limit < 1:
        which = "the model's context" if whole == context else "max_length"
        raise BadInput(
            f"--max-completion-length {args.max_completion_length} leaves no prompt any room within {which} ({whole})",
            "lower it" + ("" if whole == context else ", or raise `training.max_length` (--max-length)"),
        )
    return limit


def turn_ends(tokenizer: Any) -> tuple[str, ...]:
    """The tokens that end an assistant's turn in the tokenizer's template."""
    from dimba.dataset.samples import Sample

    encoder = ChatEncoder(tokenizer)
    chat = ({"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"})
    encoder.render(Sample(messages=chat, trained=(False, True)), "the chat template")
    return tuple(encoder.turn_ends)


def _read(args: GrpoOptions, progress: Progress) -> _Read:
    source = source_of(args)
    form, found = tasks_of(source.rows(), source.columns)
    read = _Read(form)
    for where, each in found:
        read.rows += 1
        progress(read.rows)
        if isinstance(each, Task):
            read.tasks.append((where, each))
        elif isinstance(each, LeftOut):
            read.left_out.add(each)
        else:
            read.bad.append(each)
    return read


def _rewards(args: GrpoOptions, read: _Read) -> tuple[tuple[RewardSpec, ...], str]:
    """(rewards, why these); rows that one of them cannot be given for are put among the bad ones."""
    if args.reward == ("auto",):
        choice = choose(read.form, [task for _, task in read.tasks])
        specs, why = choice.specs, choice.why
    else:
        specs = parse_rewards(args.reward)
        why = ", ".join(map(_named, specs))
    if args.reward_weights and len(args.reward_weights) != len(specs):
        counts = f"{len(args.reward_weights)} weights for {len(specs)} rewards ({why})"
        raise BadInput(f"--reward-weights: {counts}", "give one weight for each reward")
    if args.reward_model and not _learnt(specs):
        raise BadInput(
            f"--reward-model: no reward here asks a model ({why})", "add `--reward preference`, or leave it out"
        )
    for spec in specs:
        _check_columns(spec, read.form)
        _leave_out(spec, read, clear=args.reward == ("auto",))
    return specs, why


def _learnt(specs: Sequence[RewardSpec]) -> bool:
    return any(spec.name == "preference" for spec in specs)


def _idle(specs: Sequence[RewardSpec], args: GrpoOptions) -> Iterable[str]:
    most = args.max_completion_length
    idle = [spec for spec in specs if spec.name == "length" and spec.parameter and int(spec.parameter) >= most]
    return (f"reward {spec} is always 0: no completion has more than {most:,} tokens" for spec in idle)


def _named(spec: RewardSpec) -> str:
    return f"{spec} ({REWARDS[spec.name]})" if spec.name == "similarity" else str(spec)


def _check_columns(spec: RewardSpec, form: TaskForm) -> None:
    if spec.name == "auto":
        raise BadInput("--reward auto stands alone", "name the rewards, or leave --reward out")
    if needs_reference(spec) and form.reference is None:
        what = f"--reward {spec} compares with the right answer, and rows of `{form.name}` have none"
        raise BadInput(what, "name its column with `dataset.columns: {answer: …}`, or another reward")
    if spec.name in ("preference", "similarity") and not form.pairs:
        what = f"--reward {spec.name} needs pairs, and rows of `{form.name}` have no `chosen` and `rejected`"
        raise BadInput(what, "name their columns with `dataset.columns: {chosen: …, rejected: …}`, or another reward")


def _leave_out(spec: RewardSpec, read: _Read, *, clear: bool) -> None:
    kept = []
    for where, task in read.tasks:
        if reason := check_reference(spec, task.reference, clear=clear):
            read.bad.append(BadRow(where, f"{reason} (`{read.form.reference}`), which --reward {spec} needs"))
        else:
            kept.append((where, task))
    read.tasks = kept


def _asked(tokenizer: Any, read: _Read, *, pairs: bool) -> list[Asked]:
    """The tasks with their tokens; those that the template refuses are put among the bad rows."""
    found = prompted(tokenizer, read.tasks, pairs=pairs)
    read.tasks = [(where, task) for where, task, _ in found.rows]
    read.bad += found.bad
    read.faults = found.faults
    return [Asked(*row) for row in found.rows]


def _held_out(asked: Sequence[Asked], args: GrpoOptions) -> tuple[list[Asked], list[Asked]]:
    """(to train on, to test on): rows that ask the same are on the same side."""
    wanted = args.validation_split
    if isinstance(wanted, str):
        raise BadInput(f"--validation-split {wanted}: GRPO holds out prompts of its rows", "give a share or a number")
    if not wanted:
        return list(asked), []
    questions = list(dict.fromkeys(question(each.task) for each in asked))
    if wanted >= len(questions):
        what = f"--validation-split {wanted:g}: the {len(asked):,} rows ask {len(questions):,} different questions"
        raise BadInput(what, f"hold out at most {len(questions) - 1:,}: rows that ask the same are on the same side")
    chosen = {questions[int(n)] for n in hold_out(np.arange(len(questions)), wanted, args.seed)}
    sides: tuple[list[Asked], list[Asked]] = ([], [])
    for each in asked:
        sides[question(each.task) in chosen].append(each)
    return sides


def question(task: Task) -> str:
    """What is asked, as one text."""
    return "\n".join(f"{message['role']}: {message['content']}" for message in task.messages)


def _problem(
    args: GrpoOptions, read: _Read, asked: Sequence[Asked], train: Sequence[Asked], limit: int, *, tokenizer: Any
) -> Problem:
    found = [] if asked else [faults_problem(read.faults, read.rows, tokenizer, args.base_checkpoint)]
    found.append(_unusable(args, read))
    found.append(_long_problem(asked, limit, args))
    if not train:
        found.append(("no prompt is left to train on", "hold out fewer rows, or give data with more"))
    return next((problem for problem in found if problem), ("", ""))


def _unusable(args: GrpoOptions, read: _Read) -> Problem | None:
    bad = row_problem(read.note, skip_bad=args.skip_bad_rows) if read.rows else None
    return bad or read.left_out.problem(len(read.tasks))


def _long_problem(asked: Sequence[Asked], limit: int, args: GrpoOptions) -> Problem | None:
    long = [each for each in asked if each.tokens > limit]
    if not long or args.on_long == "drop":
        return None
    longest = max(long, key=lambda each: each.tokens)
    return (
        f"{len(long):,} of {len(asked):,} prompts have more than {limit:,} tokens, so that no whole completion of "
        f"{args.max_completion_length:,} fits behind them (the longest: {longest.tokens:,} tokens, {longest.where})",
        "raise `training.max_length` (--max-length) as far as the model's context goes, lower --max-completion-length, "
        "or leave them out with --on-long drop (in a spec `trainer_args: {on-long: drop}`)",
    )


def _notes(asked: Sequence[Asked]) -> Iterable[str]:
    if tools := sum(1 for each in asked if each.task.tools):
        yield f"{tools:,} rows name tools: they are not shown to the model, which answers without"


def _report(
    read: _Read, asked: Sequence[Asked], limit: int, args: GrpoOptions, *, notes: tuple[str, ...]
) -> DataReport:
    lengths = np.array([each.tokens for each in asked], dtype=np.int64)
    long = int((lengths > limit).sum())
    return DataReport(
        format=read.form.name,
        columns=read.form.columns,
        rows=read.rows,
        unusable=len(read.bad),
        bad=tuple(BadRowReport(where=each.where, why=each.why) for each in read.bad[:_SHOWN]),
        tokens=int(lengths.sum()),
        trained_tokens=0,
        max_length=limit,
        on_long=args.on_long,
        long_rows=long,
        cut_tokens=0,
        cut_trained_tokens=0,
        left_out=long + read.left_out.total,
        examples=0,
        validation=0,
        median=int(np.median(lengths)) if len(lengths) else 0,
        longest=int(lengths.max(initial=0)),
        lengths=histogram(lengths, limit),
        shown=tuple(_shown(asked[at], title) for title, at in telling(lengths)),
        asks=True,
        notes=notes,
    )


def _shown(asked: Asked, title: str) -> Shown:
    task = asked.task
    against = task.reference if task.reference is not None else _said(task.chosen)
    parts = [Part(text=question(task), trained=False)]
    if against:
        short = against if len(against) <= _SHOWN_LETTERS else f"… {against[-_SHOWN_LETTERS:]}"
        parts.append(Part(text=f"\nheld against: {short}", trained=False))
    return Shown(where=asked.where, tokens=asked.tokens, parts=tuple(parts), title=title)


def _said(messages: Sequence[Any] | None) -> str:
    return "\n".join(str(message["content"]) for message in messages or ())
