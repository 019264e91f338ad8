"""Facts of the data: which files hold the rows, and a summary of all rows."""

import os
from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from itertools import islice
from pathlib import Path

from dimba.common.contract import SKIP_BAD_ROWS, absolute, is_pattern
from dimba.common.errors import CORRECT, BadInput
from dimba.dataset.files import DataFiles, find_files
from dimba.dataset.files.patterns import pattern_base
from dimba.dataset.summary import DataSummary
from dimba.dataset.token_report import list_unusable_rows
from dimba.host.data_list import Progress, look_at_list
from dimba.host.facts import DataFacts
from dimba.host.links import links_out_of
from dimba.host.places import holds_more_than_a_job, why_not_read
from dimba.host.stamp import stamp
from dimba.objectives.registry import OBJECTIVES
from dimba.options.stream_table import SAMPLE_ROWS
from dimba.spec import Dataset, WeightedDataset

_MOST_MOUNTS = 100  # files that are mounted one by one
_MOST_NAMES = 1000  # of a folder, that are compared with a misspelt one
_COPY = "give files of rows, or copy these to a folder of your own"


def look_at_data(
    dataset: Dataset | list[WeightedDataset],
    folder: Path,
    progress: Progress,
    mode: str,
    *,
    skip_bad: bool = False,
    read: bool = True,
) -> DataFacts:
    """Facts of the data: reads all rows of local files as the trainer will; does not look up a Hub id.

    Without `read`, the files are only found. Invalid rows are a problem, unless `skip_bad`.
    """

    def look(one: Dataset, done: Progress) -> DataFacts:
        return _look_at_one(one, folder, done, mode, skip_bad=skip_bad, read=read)

    return look_at_list(dataset, look, progress) if isinstance(dataset, list) else look(dataset, progress)


def _look_at_one(
    dataset: Dataset, folder: Path, progress: Progress, mode: str, *, skip_bad: bool, read: bool
) -> DataFacts:
    if dataset.path is None:
        return DataFacts(reference=str(dataset.name), local=False, revision=dataset.revision, streamed=dataset.stream)
    path = absolute(dataset.path, folder)
    if path.is_file():  # a custom trainer may know its splits
        dataset = dataset.model_copy(update={"split": None})
    facts = replace(_find(path, dataset.split), streamed=dataset.stream)
    if facts.problem or not read:
        return facts
    try:
        summary = _surveyed(facts, dataset, mode, progress)
    except BadInput as error:
        return replace(facts, problem=error.detail, hint=error.hint, key=error.key or "dataset")
    problem, hint = ("", "") if skip_bad or not summary.unusable else _bad_rows(summary)
    return replace(facts, problem=problem, hint=hint, summary=summary)


def _find(path: Path, split: str | None) -> DataFacts:
    """Facts of the place that a spec names, with its files; nothing is read where a job may not read."""
    facts = DataFacts(reference=str(path), local=True)
    if problem := _problem_of_place(path):
        return replace(facts, problem=problem[0], hint=problem[1])
    try:
        found = find_files(path, split)
    except BadInput as error:
        return replace(facts, problem=error.detail, hint=error.hint)
    for each in _places(found.files):
        if why := why_not_read(each):
            return replace(facts, problem=f"{each} {why}", hint=_COPY)
    places = _mounted(path, found.files)
    if path not in places and holds_more_than_a_job(places[0]):
        crowded = f"{path} matches {len(found.files):,} files of {places[0]}, which holds more than one job's files"
        return replace(facts, problem=crowded, hint="move them to a folder of their own")
    links = _links(places[0], found) if places[0].is_dir() else ()
    return replace(facts, files=found.files, notes=found.notes, places=places, linked_files=links)


def _links(folder: Path, found: DataFiles) -> tuple[tuple[Path, Path], ...]:
    beside = (each for each in found.looked_at if each.is_relative_to(folder) and not why_not_read(each))
    return links_out_of(folder, [*found.files, *beside])


def _mounted(path: Path, files: tuple[Path, ...]) -> tuple[Path, ...]:
    """What a container needs: the file, the folder, or the files of a pattern; of many their folder."""
    if os.path.exists(path):
        return (path,)
    return files if len(files) <= _MOST_MOUNTS else (pattern_base(path),)


def _problem_of_place(path: Path) -> tuple[str, str] | None:
    """(problem, hint) of a path or a pattern whose files must not be looked for."""
    exists = os.path.exists(path)
    begins = path if exists or not is_pattern(str(path)) else pattern_base(path)
    if why := why_not_read(begins):
        return f"{begins} {why}", _COPY
    if not exists and begins == path:
        hint = "correct `dataset.path`; it is relative to the folder that dimba is run in"
        return f"{path} does not exist", _similar_file(path) or hint
    if path.is_dir() and holds_more_than_a_job(path):
        hint = (
            f"name the files with a pattern: `dataset.path: {path / '*.jsonl'}`, or move them to a folder of their own"
        )
        return f"{path} holds more than one job's files", hint
    if exists and not path.is_dir() and not path.is_file():
        return f"{path} is not a regular file", "give a file, a folder or a pattern"
    return None


def _similar_file(path: Path) -> str:
    """A question for the file of a similar name beside a path that does not exist; empty without one."""
    folder = path.parent
    if not folder.is_dir() or why_not_read(folder):
        return ""
    names = {_without_suffixes(each): each for each in islice(folder.iterdir(), _MOST_NAMES)}
    close = get_close_matches(_without_suffixes(path), names, n=1)
    return f"did you mean `{names[close[0]]}`?" if close else ""


def _without_suffixes(path: Path) -> str:
    """A file's name up to its first dot: a common `.jsonl` makes no two names similar."""
    return path.name.partition(".")[0]


def _places(files: Sequence[Path]) -> list[Path]:
    """The folders of the files, and those files that are links: there may be many thousand files."""
    return [*dict.fromkeys(each.parent for each in files), *(each for each in files if each.is_symlink())]


def _bad_rows(summary: DataSummary) -> tuple[str, str]:
    """(problem, hint): the first invalid rows, each with its line, and their number."""
    lines = list_unusable_rows(summary.bad, summary.unusable, summary.rows)
    fix = CORRECT if summary.unusable == 1 else "correct these rows or remove them"
    if summary.hint and summary.hint != CORRECT:
        fix = summary.hint
    return "\n".join(lines), f"{fix}, or train on the others with `trainer_args: {{{SKIP_BAD_ROWS}: true}}`"


# The wizard previews, plans and launches in one process: unchanged files are read only once.
_SURVEYS: dict[object, DataSummary] = {}


def _surveyed(facts: DataFacts, dataset: Dataset, mode: str, progress: Progress) -> DataSummary:
    path, columns = Path(facts.reference), dataset.columns
    stamps = tuple((file, stamp(file)) for file in facts.files)
    limit = SAMPLE_ROWS if dataset.stream else None
    key = (path, dataset.split, stamps, tuple(columns.items()), mode, limit)
    if key not in _SURVEYS:
        read = OBJECTIVES[mode].rows.survey
        _SURVEYS[key] = read(path, columns, progress=progress, split=dataset.split, limit=limit)
    return _SURVEYS[key]
