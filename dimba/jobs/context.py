"""JobContext: a spec, the facts of the machine and the runner; gathered once, planned once."""

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
from dimba.jobs.trust import trust_requirements_of
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
    """What `gather` may execute, and what its caller knows already."""

    asks: Literal["own", "any", "none"] = "own"  # trainers that are run for their `--help`; none: nothing is executed
    tokenises: bool = False  # also tokenises the data where the trainer runs, unless an image would have to be built
    reads_data: bool = True
    trusts_spec: bool = False  # the user wrote it, so that it requires no trust
    choices: Choices = _NO_CHOICES
    container: Container | None = None  # overrides the spec's section for the image
    earlier_image: str | None = None  # of the run that is resumed; reused if it still exists
    gpu: GpuFacts | None = None  # from an earlier probe
    image: ImageFacts | None = None  # from an earlier look for a job that runs in the same one
    runs: Path | None = None  # the folder of run records, instead of the environment's
    # Turns this machine's facts into those of another place that runs the job, image included.
    elsewhere: Callable[[HostFacts], HostFacts] | None = None


@dataclass(frozen=True, kw_only=True)
class JobContext:
    """A spec, the facts of the machine, and the runner of the job."""

    loaded: LoadedSpec
    facts: HostFacts
    runner: Runner
    choices: Choices

    @property
    def spec(self) -> JobSpec:
        """The spec as the user wrote it."""
        return self.loaded.spec

    def plan(self) -> LaunchPlan:
        """The plan, computed once. Raises DimbaError with the lines of the spec."""
        return self._plan

    @cached_property
    def _plan(self) -> LaunchPlan:
        try:
            return make_plan(self.spec, self.facts, self.choices)
        except DimbaError as error:
            raise self.loaded.locate(error) from None

    def with_gpus(self, ids: tuple[str, ...]) -> "JobContext":
        """The same job on the GPUs of its lease."""
        return self if ids == self.plan().gpu_ids else replace(self, choices=replace(self.choices, gpu_ids=ids))

    def resumed_from(self, checkpoint: Path | None) -> "JobContext":
        """The same job from a checkpoint, or from the start for None; its GPUs are open again."""
        return replace(self, choices=replace(self.choices, checkpoint=checkpoint, gpu_ids=None))

    def assuming_flags(self) -> "JobContext":
        """The same job with a trainer that takes every flag, if its image has to be built before it can be asked."""
        trainer, image = self.facts.trainer, self.facts.image
        if image is None or image.id or trainer.in_image:
            return self
        flags = EVERY_ALIAS | {f"--{name}" for name in self.spec.trainer_args}
        return replace(self, facts=replace(self.facts, trainer=replace(trainer, flags=flags)))

    @property
    def is_prepared(self) -> bool:
        """Whether the job's image exists."""
        return bool(self.facts.image and self.facts.image.id)

    def prepared(self, progress: Progress) -> "JobContext":
        """The same job with its image, built or pulled if missing, and the flags of the trainer in it.

        Raises:
            EngineFailed, HostCannot: no image can be had, or the training packages are missing.
        """
        image = self.runner.prepare(self.spec, progress)
        trainer = trainer_facts(self.facts, image, self.runner.run_once, ask=True)
        facts = replace(self.facts, image=image, trainer=trainer)
        return self if facts == self.facts else replace(self, facts=facts)


def gather(loaded: LoadedSpec, found: FoundRunner, policy: Policy, progress: RowsRead = unreported) -> JobContext:
    """The facts of everything that the spec names; executes only what the policy allows.

    `progress` gets the number of rows read so far.
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
    facts = replace(facts, trust_requirements=() if policy.trusts_spec else trust_requirements_of(loaded, facts.folder))
    return policy.elsewhere(facts) if policy.elsewhere else replace(facts, image=_image(spec, runner, policy))


def _capabilities(spec: JobSpec, found: FoundRunner, policy: Policy) -> Capabilities:
    resolved = resolve_runner(spec.runner, engine_answers=found.engine.reachable)
    return capabilities_of(policy.choices.rendered_for or resolved)


def _image(spec: JobSpec, runner: Runner, policy: Policy) -> ImageFacts | None:
    if policy.image:
        return policy.image
    earlier = runner.look(spec, Container(image=policy.earlier_image)) if policy.earlier_image else None
    return earlier if earlier and earlier.id else runner.look(spec, policy.container)


def _stays_contained(spec: JobSpec, runner: Runner, facts: HostFacts) -> bool:
    """Whether the job runs where its spec means it to, rather than without the container it was written for."""
    return spec.runner == runner.name or (
        spec.runner == AUTO and (runner.capabilities.runs_in_image or not facts.trust_requirements)
    )


def _unless_foreign(image: ImageFacts | None, facts: HostFacts) -> ImageFacts | None:
    """The image, without its id if the spec's author chose it: nothing may be executed in it then."""
    foreign = any(each.key in IMAGES for each in facts.trust_requirements)
    return replace(image, id=None) if image and foreign else image


def _asked(spec: JobSpec, facts: HostFacts, runner: Runner, policy: Policy, progress: RowsRead) -> HostFacts:
    """The facts with the trainer's flags and the tokens of the data, both from where the job runs."""
    may_ask = policy.asks == "any" and (policy.elsewhere is not None or _stays_contained(spec, runner, facts))
    usable = replace(facts, image=facts.image if may_ask else _unless_foreign(facts.image, facts))
    usable = replace(usable, trainer=trainer_facts(usable, usable.image, runner.run_once, ask=may_ask))
    rows = facts.data.summary.rows if facts.data.summary else 0
    flagged = any(each.key.startswith("trainer_args.") for each in facts.trust_requirements)
    tokenises = policy.tokenises and (may_ask or not flagged)
    reported = with_report(
        resolved(spec), usable, runner, now=(lambda done: progress(done, rows)) if tokenises else None
    )
    return replace(reported, image=facts.image)
