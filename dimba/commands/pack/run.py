"""A run as a job to compare, and as the values of a recipe."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import chdir, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dimba.commands.pack.figures import figures_of, seconds_of
from dimba.commands.report.gather import RunFacts
from dimba.commands.report.gather import gather as gather_run
from dimba.common.contract import DIFF_FILE, SPEC_FILE
from dimba.common.errors import BadInput
from dimba.host.facts import HostFacts
from dimba.host.provenance import provenance
from dimba.host.script_hash import script_hash
from dimba.jobs.context import Policy, gather
from dimba.jobs.lifecycle import Reporter
from dimba.jobs.recipes.compare import Job, short
from dimba.jobs.recipes.made import Made, portable_values, recipe_of
from dimba.jobs.recipes.portable import without_paths
from dimba.jobs.resume import recorded_spec
from dimba.jobs.unchanged import spec_hash
from dimba.options.template_table import TEMPLATE_DATE
from dimba.records import ACTIVE, RunFolder, RunRecord
from dimba.runners.registry import find_runner
from dimba.spec import LoadedSpec
from dimba.spec.load import spec_values
from dimba.spec.recipe import UNKNOWN, CodeFile, Recipe, SourceContent, Steps, sealed

_HASHES = {"base_hash": "base_checkpoint", "data_hash": "dataset", "trainer_hash": "trainer"}


@dataclass(frozen=True)
class PackedRun:
    """A run that has succeeded, and what it is made of."""

    loaded: LoadedSpec
    made: Made
    recipe: Recipe
    data: bytes  # the run's copy of its spec
    shown_date: str  # by the chat template in every row; empty if it does not ask the clock

    @property
    def job(self) -> Job:
        """The run, to be compared."""
        return Job(self._dated(portable_values(self.made, self.loaded.spec.model_dump(mode="json"))), self.recipe)

    @property
    def values(self) -> dict[str, Any]:
        """The values of the file: what the spec says with the defaults that decide the result, and the recipe."""
        return sealed(self._spec(), self.recipe)

    def _spec(self) -> dict[str, Any]:
        values = spec_values(self.data, (*self.loaded.overrides,))
        sections = ("training",) if self.loaded.spec.method == "full" else ("lora", "training")
        full = self.loaded.spec.model_dump(mode="json", include=set(sections))
        found = portable_values(self.made, {**values, **{name: _decided(full[name]) for name in sections}})
        found["training"] |= _resolved_batch(self.loaded, self.recipe.steps, self.made.plan)
        # Other trainers may lack the flags: their commits are compared before the launch, and not fetched.
        return self._dated(_at_commits(found, self.recipe) if self.made.own_trainer else found)

    def _dated(self, values: dict[str, Any]) -> dict[str, Any]:
        """The values with the date that the rows showed, which is another one tomorrow."""
        args = values.get("trainer_args") or {}
        if not self.shown_date or TEMPLATE_DATE.name in args:
            return values
        return {**values, "trainer_args": {**args, TEMPLATE_DATE.name: self.shown_date}}


def _decided(section: Mapping[str, Any]) -> dict[str, Any]:
    """The values of a section that decide the result; a tracker is its user's own."""
    return {name: value for name, value in section.items() if value not in (None, []) and name != "report_to"}


def _resolved_batch(loaded: LoadedSpec, steps: Steps, plan: Mapping[str, Any]) -> dict[str, int]:
    """The numbers that `batch_size: auto` came to."""
    batch = (plan.get("steps") or {}).get("batch_size")
    if loaded.spec.training.batch_size != "auto" or not isinstance(batch, int) or not steps.effective_batch:
        return {}
    return {"batch_size": batch, "grad_accumulation_steps": max(1, steps.effective_batch // batch)}


def _at_commits(values: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    """The values with the commits of base and data on the Hub, base and revision beside each other."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if key == "base_checkpoint" and recipe.base.hub:
            found |= {key: recipe.base.name, "base_revision": recipe.base.revision}
        elif key == "dataset":
            several = isinstance(value, list)
            pairs = zip(value if several else [value], recipe.data, strict=True)
            sources = [{**each, "revision": of.revision} if of.hub else each for each, of in pairs]
            found[key] = sources if several else sources[0]
        elif key != "base_revision":
            found[key] = value
    return found


def packed_run(folder: RunFolder, reporter: Reporter, *, with_code: bool = False) -> PackedRun:
    """The run of a folder.

    Raises:
        BadInput: it has not succeeded, its base, data or code are gone or have changed, or its record lacks a hash.
    """
    run = gather_run(folder)
    record = _succeeded(run.record)
    loaded, data = recorded_spec(folder, record), (folder.path / SPEC_FILE).read_bytes()
    with chdir(record.folder) if Path(record.folder or ".").is_dir() else nullcontext():
        policy = Policy(asks="none", reads_data=False, trusts_spec=True)
        facts = gather(loaded, find_runner(loaded.spec.runner), policy).facts
        made = _made(run, record, loaded, facts)
        now = provenance(facts, (), reporter.progress) | {"spec_hash": spec_hash(data)}
        _require_unchanged(made, now)
        recipe = recipe_of(made, reporter.progress, **_of_run(run, record))
    reporter.ended()
    _require_commits(recipe)
    _require_names(recipe)
    recipe = recipe.model_copy(update={"data": _with_rows(recipe, run)})
    recipe = _with_texts(recipe, made) if with_code else recipe
    return PackedRun(loaded, made, recipe, data, run.data.shown_time[:10] if run.data else "")


def _succeeded(record: RunRecord) -> RunRecord:
    if record.status in ACTIVE:
        raise BadInput(f"run {record.id} is {record.status}", f"`dimba watch {record.id}` shows its progress")
    if record.status != "succeeded":
        hint = f"`dimba resume {record.id}` finishes it"
        raise BadInput(f"run {record.id} {record.status} ({record.exit_reason}), so that it has no recipe", hint)
    lacking = [key for name, key in _HASHES.items() if not getattr(record, name) and name != "trainer_hash"]
    if lacking and not record.commits:
        hint = "launch it again with `--same-as`, and pack that run"
        raise BadInput(f"the record of run {record.id} has no hash of its {lacking[0]}", hint)
    return record


def _made(run: RunFacts, record: RunRecord, loaded: LoadedSpec, facts: HostFacts) -> Made:
    fields = vars(record)
    if (run.folder.path / DIFF_FILE).is_file():  # too long for the record
        fields = {**fields, "git_diff": (run.folder.path / DIFF_FILE).read_text(encoding="utf-8", errors="replace")}
    return Made(spec=loaded.spec, facts=facts, plan=run.plan, fields=fields, commits=record.commits)


def _require_unchanged(made: Made, now: Mapping[str, Any]) -> None:
    found = list(_changes(made, now))
    if found:
        lines = "\n".join(f"  {each}" for each in found)
        hint = "restore what it was trained on; a recipe without it would be of no use"
        raise BadInput(f"run {made.fields['id']} was trained on something else:\n{lines}", hint)


def _changes(made: Made, now: Mapping[str, Any]) -> Iterator[str]:
    facts = made.facts
    for key, part in (("base_checkpoint", facts.checkpoint), ("dataset", facts.data)):
        if part.problem:
            yield f"{key}: {part.reference} {part.problem.removeprefix(part.reference).strip()}"
    for name, key in _HASHES.items():
        before, after = made.fields.get(name), now.get(name)
        is_local = before and not str(before).startswith("commit:")
        if before and before != after and (after or (is_local and name != "trainer_hash")):
            yield f"{key}: {short(before)} then, {short(after)} now"
    for path, before in made.fields["files"].items():
        if now["files"].get(path) != before:
            yield f"trainer_args: {path}: {short(before)} then, {short(now['files'].get(path))} now"
    spec = (made.fields.get("spec_hash"), now.get("spec_hash"))
    if all(spec) and spec[0] != spec[1]:
        yield "job.yaml: the run's copy of its spec has been edited"


def _require_commits(recipe: Recipe) -> None:
    for each in (recipe.base, *recipe.data):
        if each.hub and each.revision == UNKNOWN:
            hint = "launch it again with `--same-as`, and pack that run"
            raise BadInput(f"the run's record has no commit of {each.name} on the Hub", hint)


def _of_run(run: RunFacts, record: RunRecord) -> dict[str, Any]:
    """The fields of a recipe that only a run has that has ended."""
    steps = Steps(
        effective_batch=record.effective_batch,
        total=(run.plan.get("steps") or {}).get("total") or int(run.metrics.last_step) or None,
        seconds=seconds_of(record),
    )
    notes = [without_paths(each) for each in _notes(record)]
    return {"steps": steps, "figures": figures_of(run), "notes": notes}


def _notes(record: RunRecord) -> Iterator[str]:
    """What a reader of the figures has to know."""
    earlier = [each.exit_reason or "ended" for each in record.attempts[:-1]]
    if earlier:
        yield f"{len(record.attempts)} attempts: before the last one {', '.join(earlier)}"
    for departure in record.departures:
        yield from (f"continued although changed: {each}" for each in departure.get("differences", ()))
    if record.recipe and record.recipe.get("anyway"):
        yield f"departs from the recipe of {record.recipe.get('run')}: trained on other contents"
    if record.git_dirty:
        yield "the code had uncommitted changes, which are not in this file"
    if record.learning_problem:
        yield f"nothing was learned: {record.learning_problem}"
    if record.allow_cpu:
        yield "`--allow-cpu`: on the CPU if the GPUs did not work"


def _with_rows(recipe: Recipe, run: RunFacts) -> list[SourceContent]:
    """The data sets with their numbers of rows, as the trainer or else the plan counted them."""
    data = run.plan.get("data") or {}
    planned = [(each.get("summary") or {}).get("rows") for each in data.get("sources") or [data]]
    report = run.data
    counted = ([each.rows for each in report.sources] or [report.rows]) if report and not report.streamed else []
    counts = counted if len(counted) == len(recipe.data) else planned
    if data.get("streamed") or len(counts) != len(recipe.data):
        return list(recipe.data)
    return [each.model_copy(update={"rows": rows}) for each, rows in zip(recipe.data, counts, strict=True)]


def _with_texts(recipe: Recipe, made: Made) -> Recipe:
    paths = {Path(path).name: Path(path) for path in made.fields["files"]}
    if trainer := made.facts.trainer.path:
        paths.setdefault(trainer.name, trainer)
    code = [each if paths[each.name].is_dir() else _with_text(each, paths[each.name]) for each in recipe.code]
    return recipe.model_copy(update={"code": code})


def _with_text(file: CodeFile, path: Path) -> CodeFile:
    """The file with its text; raises BadInput if that alone is not what ran."""
    try:
        text = path.read_bytes().decode()
    except (OSError, UnicodeDecodeError):
        raise BadInput(f"{path} cannot be read as text", "leave out --with-code") from None
    with TemporaryDirectory() as folder:
        copy = Path(folder, path.name)
        copy.write_bytes(text.encode())
        if file.key == "trainer" and script_hash(copy) != file.hash:
            raise BadInput(f"{path} imports modules of its folder", "leave out --with-code, and hand them on yourself")
    return file.model_copy(update={"text": text})


def _require_names(recipe: Recipe) -> None:
    names = Counter(each.name for each in recipe.code)
    if twice := [name for name, count in names.items() if count > 1]:
        hint = "give them different names, and launch it again"
        raise BadInput(f"two of the run's files of code have the name {twice[0]}", hint)
