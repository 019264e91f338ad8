"""What a job trains on and with: base, data and code, each by its hash or its commit on the Hub."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from dimba.host.facts import CheckpointFacts, DataFacts
from dimba.host.fingerprint import fingerprint
from dimba.host.provenance import data_hash
from dimba.jobs.recipes.portable import cached_revision, public_name, source_names
from dimba.spec import JobSpec
from dimba.spec.recipe import UNKNOWN, CodeFile, Content, SourceContent

Progress = Callable[[str, int, int], None]  # (activity, bytes so far, bytes in all)
_MOST_FILES = 200  # whose hashes are listed one by one


def base_content(facts: CheckpointFacts, digest: str | None, revision: str | None) -> Content:
    """The base; of one on the Hub `revision` is its commit."""
    cached = cached_revision(facts.reference)
    return Content(
        name=public_name(facts.reference, local=facts.local),
        hub=cached is not None or not facts.local,
        revision=cached if facts.local else revision or UNKNOWN,
        hash=(digest or UNKNOWN) if facts.local and not facts.revision else None,
    )


def source_contents(
    spec: JobSpec, facts: DataFacts, revisions: Mapping[str, str], progress: Progress
) -> Iterator[SourceContent]:
    """Each data set; `revisions` are the commits of those on the Hub by their ids."""
    names = source_names(spec.model_dump(mode="json", include={"dataset"})["dataset"])
    for key, name, each in zip(spec.sources, names, facts.sources or (facts,), strict=True):
        if not each.local:
            yield SourceContent(key=key, name=name, hub=True, revision=revisions.get(each.reference, UNKNOWN))
            continue
        digest = data_hash(each, lambda done, total: progress("hashing the data", done, total))
        yield SourceContent(key=key, name=name, hash=digest or UNKNOWN, rows=_rows(each), files=_files(each))


def _rows(facts: DataFacts) -> int | None:
    return facts.summary.rows if facts.summary and not facts.streamed else None


def _files(facts: DataFacts) -> dict[str, str]:
    """The hash of each of several files; none of very many, of streamed ones, or of those that share a name."""
    names = {each.name for each in facts.files}
    if facts.streamed or not 1 < len(facts.files) <= _MOST_FILES or len(names) < len(facts.files):
        return {}
    hashes = {each.name: fingerprint(each, lambda *_: None) for each in facts.files}  # all of them were just read
    return {name: f"sha256:{digest}" for name, digest in hashes.items() if digest}


def code_files(spec: JobSpec, trainer_hash: str | None, files: Mapping[str, str]) -> Iterator[CodeFile]:
    """The custom trainer, and the files of rewards; `files` are hashes by path."""
    if trainer_hash and spec.trainer:
        yield CodeFile(key="trainer", name=Path(spec.trainer).name, hash=trainer_hash)
    for path, digest in files.items():
        yield CodeFile(key="trainer_args", name=Path(path).name, hash=digest)
