"""The rows of a data set for GRPO, sorted into prompt examples, unusable rows and skipped pairs."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from dimba.common.errors import Location, UnusableRow
from dimba.dataset.mixture import errors_under, joined, joined_columns
from dimba.dataset.prompt_examples import PromptExample, PromptFormat, SkippedPair, Tally, prompts_of
from dimba.dataset.token_report import UnusableRowReport
from dimba.objectives.grpo import GrpoOptions
from dimba.objectives.rewards import RewardSpec
from dimba.trainers.data.loading import sources_from
from dimba.trainers.data.rows import Source
from dimba.trainers.data.tokenization import Problem, row_problem
from dimba.trainers.progress import Progress
from dimba.trainers.rewards import check_reference

_LISTED = 5  # unusable rows that are listed

Example = tuple[Location, PromptExample]


@dataclass(frozen=True)
class PromptRows:
    """All rows that were read."""

    form: PromptFormat
    count: int = 0
    examples: tuple[Example, ...] = ()
    bad: tuple[UnusableRow, ...] = ()
    skipped: Tally = field(default_factory=Tally)  # pairs that compare nothing
    file_notes: tuple[str, ...] = ()  # on files that are not read
    parts: tuple["PromptRows", ...] = ()  # by data set, as they were read
    template_errors: Counter[str] = field(default_factory=Counter)  # rows by the chat template's message

    @property
    def listed(self) -> tuple[UnusableRowReport, ...]:
        """The first unusable rows."""
        return tuple(UnusableRowReport(where=str(each.location), why=each.finding) for each in self.bad[:_LISTED])

    def problem(self, options: GrpoOptions) -> Problem | None:
        """(cause, hint) if too many rows are unusable or too many pairs are skipped."""
        listed = [{"where": each.where, "why": each.why} for each in self.listed]
        note = {"rows": self.count, "unusable": len(self.bad), "bad": listed}
        bad = row_problem(note, skip_bad=options.skip_bad_rows) if self.count else None
        return bad or self.skipped.problem(len(self.examples))

    def notes(self) -> Iterator[str]:
        """A line for each reason why pairs are skipped."""
        return self.skipped.notes(len(self.examples))

    def with_references(self, spec: RewardSpec, *, clear: bool) -> "PromptRows":
        """These rows; those without the reference that the reward needs are unusable (`clear`: `check_reference`)."""
        usable, bad = list[Example](), list(self.bad)
        for where, example in self.examples:
            if reason := check_reference(spec, example.reference, clear=clear):
                cause = f"{reason} (`{self.form.reference}`), which --reward {spec} needs"
                bad.append(UnusableRow(cause).at(where))
            else:
                usable.append((where, example))
        return replace(self, examples=tuple(usable), bad=tuple(bad))


def read_rows(options: GrpoOptions, progress: Progress) -> PromptRows:
    """All rows of the data set; raises BadInput if their form is unknown or none is readable."""
    sources = sources_from(options)
    parts = list[PromptRows]()
    for number, source in enumerate(sources):
        before = sum(each.count for each in parts)
        with errors_under(source.key):
            parts.append(_read_source(source, number, lambda rows, before=before: progress(before + rows)))  # type: ignore[misc]
    return PromptRows(
        shared_form([each.form for each in parts]),
        sum(each.count for each in parts),
        tuple(example for each in parts for example in each.examples),
        tuple(row for each in parts for row in each.bad),
        sum((each.skipped for each in parts), Tally()),
        tuple(note for each in sources for note in each.files.notes),
        parts=tuple(parts),
    )


def _read_source(source: Source, number: int, progress: Progress) -> PromptRows:
    form, found = prompts_of(source.rows(), source.columns)
    examples, bad, skipped, count = list[Example](), list[UnusableRow](), Tally(), 0
    for count, (where, each) in enumerate(found, start=1):
        progress(count)
        if isinstance(each, PromptExample):
            examples.append((where, replace(each, source=number)))
        elif isinstance(each, SkippedPair):
            skipped.add(each)
        else:
            bad.append(each)
    return PromptRows(form, count, tuple(examples), tuple(bad), skipped)


def shared_form(forms: Sequence[PromptFormat]) -> PromptFormat:
    """What the rows of all data sets have: rewards need it of every row."""
    first = forms[0]
    if len(forms) == 1:
        return first
    references = [each.reference for each in forms]
    return PromptFormat(
        name=joined(each.name for each in forms),
        columns=joined_columns(each.columns for each in forms),
        ask=first.ask,
        reference=joined(filter(None, references)) if all(references) else None,
        checkable=all(each.checkable for each in forms),
        pairs=all(each.pairs for each in forms),
    )
