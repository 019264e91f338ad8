"""`dimba data`: the data of a spec as the model will see them, whatever trainer it names."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from dimba.common.errors import BadInput, DimbaError, raise_all
from dimba.dataset.token_report import DataReport
from dimba.host.facts import HostFacts
from dimba.host.probe import probe
from dimba.host.trainer import own_trainer
from dimba.jobs.data_preview import cannot_preview, flag_problems, preview, remembered
from dimba.jobs.launch import located
from dimba.jobs.lifecycle import Reporter
from dimba.jobs.trust import harms_of
from dimba.plan.checks import data_error, input_problems
from dimba.plan.placement import choose_runner
from dimba.runners.protocol import Runner
from dimba.runners.registry import find_runner
from dimba.spec import JobSpec, LoadedSpec

_CODE = "trust-remote-code"


def look_at_data(loaded: LoadedSpec, reporter: Reporter, *, trust: bool = False) -> DataReport:
    """Reads and tokenises the data where the job would run, making our image where it is missing.

    Nothing that the spec brings along is executed: neither its trainer nor its images; its base image and the code of
    its checkpoint but to `trust`.

    Raises:
        DimbaError: there is nothing to look at, with the reason and the line of the spec.
    """
    try:
        harms = () if trust else harms_of(loaded, Path.cwd())
        return _look(_ours(loaded.spec, {each.key for each in harms}), reporter)
    except DimbaError as error:
        raise located(error, loaded) from None


def _ours(spec: JobSpec, strange: Collection[str]) -> JobSpec:
    """The spec without what its data do not need, and without the `strange` keys by which something is executed."""
    base = None if "container.base_image" in strange else spec.container.base_image
    ours = spec.container.model_copy(update={"image": None, "mounts": [], "base_image": base})
    code = f"trainer_args.{_CODE}"
    args = {key: value for key, value in spec.trainer_args.items() if key != _CODE or code not in strange}
    return spec.model_copy(update={"container": ours, "trainer_args": args})


def _look(spec: JobSpec, reporter: Reporter) -> DataReport:
    runner, engine = find_runner(spec.runner)
    facts = probe(spec, engine, folder=Path.cwd(), read=False)
    choose_runner(spec, facts)
    raise_all(_problems(spec, facts))
    facts = replace(facts, image=runner.look(spec))
    try:
        report = remembered(spec, facts) or _tokenised(spec, facts, runner, reporter)
    except BadInput as error:
        raise data_error(spec, facts, error.message, error.hint) from None
    if facts.trainer.path == own_trainer(spec.mode, facts.project):
        return report
    note = f"this is what dimba's own trainer would see: {facts.trainer.path} may read the data otherwise"
    return replace(report, notes=(*report.notes, note))


def _tokenised(spec: JobSpec, facts: HostFacts, runner: Runner, reporter: Reporter) -> DataReport:
    facts = replace(facts, image=runner.prepare(spec, reporter.progress))
    try:
        return preview(spec, facts, runner, reporter.rows)
    finally:
        reporter.ended()


def _problems(spec: JobSpec, facts: HostFacts) -> list[DimbaError]:
    errors = input_problems(spec, facts)
    errors += [] if errors else flag_problems(spec, facts)
    why = "" if errors else cannot_preview(spec, facts)
    return [*errors, BadInput(f"the data cannot be looked at: {why}", "mend that first")] if why else errors
