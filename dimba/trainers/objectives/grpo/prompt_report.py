"""The report of GRPO's prompts: counts, lengths, examples, notes, and the first problem."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from dimba.dataset.dialogue import Message
from dimba.dataset.token_report import DataReport, Part, Shown, SourceReport
from dimba.objectives.grpo import GrpoOptions
from dimba.trainers.data.encoding import Example
from dimba.trainers.data.loading import sources_from
from dimba.trainers.data.mixture import report_source
from dimba.trainers.data.reporting import histogram, shortened, typical_examples
from dimba.trainers.data.rows import Source
from dimba.trainers.data.template_notes import control_problem, faults_problem
from dimba.trainers.data.tokenization import Problem
from dimba.trainers.objectives.grpo.prompts import Prompt
from dimba.trainers.objectives.grpo.rows import PromptRows

_SHOWN_LETTERS = 300  # of an example's reference, from its end


@dataclass(frozen=True)
class MeasuredRows:
    """The rows of a job with the prompts of the usable ones, and the most tokens that a prompt may have."""

    rows: PromptRows
    prompts: tuple[Prompt, ...]
    limit: int
    options: GrpoOptions
    note: Mapping[str, Any]

    @property
    def long(self) -> list[Prompt]:
        """The prompts that leave no room for a completion."""
        return [each for each in self.prompts if each.tokens > self.limit]

    def report(self, tokenizer: PreTrainedTokenizerBase, notes: Sequence[str]) -> DataReport:
        """The counts of all rows; `examples` and `validation` are 0."""
        rows, long = self.rows, len(self.long)
        lengths = np.array([each.tokens for each in self.prompts], dtype=np.int64)
        return DataReport(
            format=rows.form.name,
            columns=rows.form.columns,
            rows=rows.count,
            unusable=len(rows.bad),
            bad=rows.listed,
            tokens=int(lengths.sum()),
            trained_tokens=0,
            max_length=self.limit,
            on_long=self.options.on_long,
            long_rows=long,
            cut_tokens=0,
            cut_trained_tokens=0,
            left_out=long + rows.skipped.total,
            examples=0,
            validation=0,
            median=int(np.median(lengths)) if len(lengths) else 0,
            longest=int(lengths.max(initial=0)),
            lengths=histogram(lengths, self.limit),
            shown=tuple(_shown(self.prompts[at], tokenizer, title) for title, at in typical_examples(lengths)),
            asks=True,
            shown_time=self.note.get("shown_time", ""),
            notes=tuple(note for note in (*notes, *rows.notes(), *self._tool_notes()) if note),
        )

    def sources(self, epoch: Sequence[Prompt]) -> tuple[SourceReport, ...]:
        """The counts of each data set of a list; `epoch` are the prompts of an epoch."""
        found = sources_from(self.options) if self.options.mixture else []
        return tuple(self._source(number, each, epoch) for number, each in enumerate(found))

    def _source(self, number: int, source: Source, epoch: Sequence[Prompt]) -> SourceReport:
        ours = [each for each in self.prompts if each.example.source == number]
        read = self.rows.parts[number]
        unusable = read.count - read.skipped.total - len(ours)
        note = {"format": read.form.name, "rows": read.count, "unusable": unusable}
        examples = sum(each.example.source == number for each in epoch)
        return report_source(source, note, sum(each.tokens for each in ours), 0, examples)

    def _tool_notes(self) -> Iterator[str]:
        if count := sum(1 for each in self.prompts if each.example.tools):
            yield f"{count:,} rows name tools: the prompts show them, and no call is run"

    def problem(self, tokenizer: PreTrainedTokenizerBase, *, has_train: bool) -> Problem | None:
        """(cause, hint) of the first reason not to train on these rows."""
        rows, problems = self.rows, list[Problem | None]()
        if not self.prompts:
            problems.append(faults_problem(rows.template_errors, rows.count, tokenizer, self.options.base_checkpoint))
        problems += [rows.problem(self.options), control_problem(self.note, self.options), self._long_problem()]
        if not has_train:
            problems.append(("no prompt is left to train on", "hold out fewer rows, or give data with more rows"))
        return next((problem for problem in problems if problem), None)

    def _long_problem(self) -> Problem | None:
        if not self.long or self.options.on_long == "drop":
            return None
        longest = max(self.long, key=lambda each: each.tokens)
        return (
            f"{len(self.long):,} of {len(self.prompts):,} prompts have more than {self.limit:,} tokens and leave no "
            f"room for a completion of {self.options.max_completion_length:,} (the longest: {longest.tokens:,} tokens, "
            f"{longest.where})",
            "raise `training.max_length` (--max-length) as far as the model's context allows, lower "
            "--max-completion-length, or skip these prompts with --on-long drop (in a spec `trainer_args: {on-long: "
            "drop}`)",
        )


def _shown(prompt: Prompt, tokenizer: PreTrainedTokenizerBase, title: str) -> Shown:
    """The prompt decoded from its tokens, up to the generation prompt, and the reference."""
    example = prompt.example
    has_reference = example.reference is not None
    label, answer = ("reference", example.reference) if has_reference else ("chosen", _text(example.chosen))
    size = len(prompt.ids)
    ids = Example(np.array(prompt.ids, dtype=np.int32), np.zeros(size, dtype=bool))
    parts = list(shortened(ids, tokenizer))
    if answer:
        short = answer if len(answer) <= _SHOWN_LETTERS else f"… {answer[-_SHOWN_LETTERS:]}"
        parts.append(Part(text=f"\n{label}: {short}", trained=False))
    return Shown(where=str(prompt.where), tokens=prompt.tokens, parts=tuple(parts), title=title)


def _text(messages: Sequence[Message] | None) -> str:
    return "\n".join(str(message["content"]) for message in messages or ())
