"""`dimba data`: the data of a spec as the model will see them."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from dimba.common.errors import BadInput, DimbaError, raise_all
from dimba.dataset.token_report import DataReport
from dimba.host.facts import HostFacts
from dimba.host.trainer import own_trainer
from dimba.jobs.context import JobContext, Policy, gather
from dimba.jobs.data_preview import cannot_preview, flag_problems, preview, remembered
from dimba.jobs.lifecycle import Reporter
from dimba.jobs.trust import trust_requirements_of
from dimba.plan.checks import data_error, input_problems
from dimba.plan.job import ResolvedJob, resolved
from dimba.plan.placement import choose_runner
from dimba.runners.registry import find_runner
from dimba.spec import Container, JobSpec, LoadedSpec

_CODE = "trust-remote-code"


def look_at_data(loaded: LoadedSpec, reporter: Reporter, *, trust: bool = False) -> DataReport:
    """Read and tokenise the data where the job would run; builds the image if it is missing.

    Nothing that the spec brings along is executed: neither its trainer nor its images; its base image and the code of
    its checkpoint but to `trust`.

    Raises:
        DimbaError: there is nothing to look at, with the reason and the line of the spec.
    """
    try:
        strange = () if trust else trust_requirements_of(loaded, Path.cwd())
        return _report(loaded, {each.key for each in strange}, reporter)
    except DimbaError as error:
        raise loaded.locate(error) from None


def _report(loaded: LoadedSpec, strange: Collection[str], reporter: Reporter) -> DataReport:
    container = _ours(loaded.spec, strange)
    job = resolved(loaded.spec).without_args({_CODE} if f"trainer_args.{_CODE}" in strange else ())
    context = _context(loaded, container)
    choose_runner(job.spec, context.facts, container)
    raise_all(_problems(job, context.facts))
    try:
        report = remembered(job, context.facts) or _tokenised(job, context, container, reporter)
    except BadInput as error:
        raise data_error(error) from None
    trainer = context.facts.trainer.path
    if trainer == own_trainer(job.mode, context.facts.project):
        return report
    note = f"this shows what dimba's own trainer reads; {trainer} may read the data differently"
    return replace(report, notes=(*report.notes, note))


def _ours(spec: JobSpec, strange: Collection[str]) -> Container:
    """The container of the preview, without the `strange` keys, which would execute foreign code."""
    base = None if "container.base_image" in strange else spec.container.base_image
    return Container(base_image=base, network=spec.container.network, pins=spec.container.pins)


def _context(loaded: LoadedSpec, container: Container) -> JobContext:
    policy = Policy(asks="none", reads_data=False, trusts_spec=True, container=container)
    return gather(loaded, find_runner(loaded.spec.runner), policy)


def _tokenised(job: ResolvedJob, context: JobContext, container: Container, reporter: Reporter) -> DataReport:
    runner = context.runner
    facts = replace(context.facts, image=runner.prepare(job.spec, reporter.progress, container))
    try:
        return preview(job, facts, runner, reporter.rows)
    finally:
        reporter.ended()


def _problems(job: ResolvedJob, facts: HostFacts) -> list[DimbaError]:
    errors = input_problems(job, facts)
    errors += [] if errors else flag_problems(job, facts)
    why = "" if errors else cannot_preview(job, facts)
    return [*errors, BadInput(f"the data cannot be previewed: {why}", "fix that first")] if why else errors
