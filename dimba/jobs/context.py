"""JobContext: a spec, the machine, and where the job would run, gathered once and planned once."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from dimba.common.errors import DimbaError
from dimba.common.runners import AUTO, Capabilities, capabilities_of, resolve_runner
from dimba.host.facts import GpuFacts, HostFacts, ImageFacts
from dimba.host.probe import probe
from dimba.host.trust_requirements import IMAGES
from dimba.jobs.data_preview import with_report
from dimba.jobs.trust import harms_of
from dimba.plan.build import Choices, make_plan
from dimba.plan.flags import EVERY_ALIAS
from dimba.plan.job import resolved
from dimba.plan.model import LaunchPlan
from dimba.runners.flags import trainer_facts
from dimba.runners.protocol import FoundRunner, Progress, Runner
from dimba.spec import Container, JobSpec, LoadedSpec

RowsRead = Callable[..., None]  # (rows read), or (rows tokenised, of how many)
_NO_CHOICES = Choices()


def unreported(_count: int, _total: int = 0) -> None:
    """Reports no progress."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What gathering may execute, and what is known beforehand."""

    asks: Literal["own", "any", "none"] = "own"  # whose trainer is run for its `--help`; none: nothing is run
    tokenises: bool = False  # looks at the data where the trainer runs too, if no image has to be built for it
    reads_data: bool = True
    trusts_spec: bool = False  # the spec is its reader's own
    choices: Choices = _NO_CHOICES
    container: Container | None = None  # names the image in place of the spec's section
    earlier_image: str | None = None  # that the run had before: taken again while it is there
    gpu: GpuFacts | None = None  # found before
    runs: Path | None = None  # where runs are recorded, whatever the environment says
    # The facts as they are where a job runs that no runner of this machine starts; the image among them.
    elsewhere: Callable[[HostFacts], HostFacts] | None = None


@dataclass(frozen=True, kw_only=True)
class JobContext:
    """A spec, the machine, and where it would run."""

    loaded: LoadedSpec
    facts: HostFacts
    runner: Runner
    choices: Choices

    @property
    def spec(self) -> JobSpec:
        """The spec as it is written."""
        return self.loaded.spec

    def plan(self) -> LaunchPlan:
        """The plan, made once. Raises DimbaError with the spec's lines."""
        return self._plan

    @cached_property
    def _plan(self) -> LaunchPlan:
        try:
            return make_plan(self.spec, self.facts, self.choices)
        except DimbaError as error:
            raise self.loaded.locate(error) from None

    def with_gpus(self, ids: tuple[str, ...]) -> "JobContext":
        """The same job on the GPUs that a lease gave it."""
        return self if ids == self.plan().gpu_ids else replace(self, choices=replace(self.choices, gpu_ids=ids))

    def resumed_from(self, checkpoint: Path | None) -> "JobContext":
        """The same job from a checkpoint on, None from the start; on whichever GPUs it gets then."""
        return replace(self, choices=replace(self.choices, checkpoint=checkpoint, gpu_ids=None))

    def assuming_flags(self) -> "JobContext":
        """The same job, its trainer taking every flag: one in an image that is not there yet cannot be asked."""
        trainer, image = self.facts.trainer, self.facts.image
        if image is None or image.id or trainer.in_image:
            return self
        flags = EVERY_ALIAS | {f"--{name}" for name in self.spec.trainer_args}
        return replace(self, facts=replace(self.facts, trainer=replace(trainer, flags=flags)))

    @property
    def is_prepared(self) -> bool:
        """Whether the image is there."""
        return bool(self.facts.image and self.facts.image.id)

    def prepared(self, progress: Progress) -> "JobContext":
        """The same job with its image, made where it is missing, and the flags that the trainer in it takes.

        Raises:
            EngineFailed, HostCannot: it cannot be made, or what trains is not installed where jobs run.
        """
        image = self.runner.prepare(self.spec, progress)
        trainer = trainer_facts(self.facts, image, self.runner.run_once, ask=True)
        facts = replace(self.facts, image=image, trainer=trainer)
        return self if facts == self.facts else replace(self, facts=facts)


def gather(loaded: LoadedSpec, found: FoundRunner, policy: Policy, progress: RowsRead = unreported) -> JobContext:
    """Looks at everything that the spec names; starts nothing but trainers' `--help`, as the policy allows it.

    `progress` gets the rows read so far.
    """
    facts = _probed(loaded, found, policy, progress)
    if policy.asks != "none":
        facts = _asked(loaded.spec, facts, found.runner, policy, progress)
    return JobContext(loaded=loaded, facts=facts, runner=found.runner, choices=policy.choices)


def _probed(loaded: LoadedSpec, found: FoundRunner, policy: Policy, progress: RowsRead) -> HostFacts:
    spec, (runner, engine) = loaded.spec, found
    nodes, can = runner.nodes(spec), _capabilities(loaded.spec, found, policy)
    facts = probe(
        spec,
        engine,
        folder=Path.cwd(),
        progress=progress,
        gpu=nodes.gpu if nodes else policy.gpu,
        runs=policy.runs,
        read=policy.reads_data,
        in_container=can.runs_in_image and not engine.rootless and (engine.reachable or not can.uses_engine),
    )
    facts = facts.on(nodes) if nodes else facts
    facts = replace(facts, harms=() if policy.trusts_spec else harms_of(loaded, facts.folder))
    return policy.elsewhere(facts) if policy.elsewhere else replace(facts, image=_image(spec, runner, policy))


def _capabilities(spec: JobSpec, found: FoundRunner, policy: Policy) -> Capabilities:
    resolved = resolve_runner(spec.runner, engine_answers=found.engine.reachable)
    return capabilities_of(policy.choices.rendered_for or resolved)


def _image(spec: JobSpec, runner: Runner, policy: Policy) -> ImageFacts | None:
    earlier = runner.look(spec, Container(image=policy.earlier_image)) if policy.earlier_image else None
    return earlier if earlier and earlier.id else runner.look(spec, policy.container)


def _stays_contained(spec: JobSpec, runner: Runner, facts: HostFacts) -> bool:
    """Whether nothing that was meant for a container, which cannot be had, would run on this machine instead."""
    return spec.runner == runner.name or (
        spec.runner == AUTO and (runner.capabilities.runs_in_image or not facts.harms)
    )


def _unless_foreign(image: ImageFacts | None, facts: HostFacts) -> ImageFacts | None:
    """The image as if it was not there yet, where a stranger may have made it: nothing is executed in it then."""
    foreign = any(each.key in IMAGES for each in facts.harms)
    return replace(image, id=None) if image and foreign else image


def _asked(spec: JobSpec, facts: HostFacts, runner: Runner, policy: Policy, progress: RowsRead) -> HostFacts:
    """The facts with what runs where the job runs: the trainer's flags, and what is known of the data's tokens."""
    may_ask = policy.asks == "any" and (policy.elsewhere is not None or _stays_contained(spec, runner, facts))
    usable = replace(facts, image=facts.image if may_ask else _unless_foreign(facts.image, facts))
    usable = replace(usable, trainer=trainer_facts(usable, usable.image, runner.run_once, ask=may_ask))
    rows = facts.data.summary.rows if facts.data.summary else 0
    flagged = any(each.key.startswith("trainer_args.") for each in facts.harms)
    tokenises = policy.tokenises and (may_ask or not flagged)
    reported = with_report(
        resolved(spec), usable, runner, now=(lambda done: progress(done, rows)) if tokenises else None
    )
    return replace(reported, image=facts.image)
