"""The use case: look → plan → record → prepare → start → follow → close."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dimba.common import contract
from dimba.common.checkpoints import newest_whole
from dimba.common.errors import DimbaError, RunFailed, SeveralErrors
from dimba.common.runners import AUTO
from dimba.host.facts import GpuFacts, HostFacts, ImageFacts
from dimba.host.probe import probe
from dimba.host.provenance import provenance
from dimba.host.trust_requirements import IMAGES
from dimba.jobs.data_preview import with_report
from dimba.jobs.gpu_leases import GpuLeases, machine, waiting_for, wanted_by
from dimba.jobs.lifecycle import Options, Reporter, Run, interrupted, signals
from dimba.jobs.outcome import TRANSIENT
from dimba.jobs.supervisor import spawn_attendant
from dimba.jobs.trust import Ask, harms_of, remember_run, require_trust
from dimba.plan.build import Choices, make_plan
from dimba.plan.flags import EVERY_ALIAS
from dimba.plan.model import LaunchPlan
from dimba.records import RunRecord
from dimba.runners.flags import trainer_facts
from dimba.runners.protocol import FoundRunner, Runner
from dimba.runners.registry import find_runner
from dimba.spec import JobSpec, LoadedSpec

RowsRead = Callable[..., None]  # (rows read), or (rows tokenised, of how many)
# (plan, fields of provenance) → further fields; raises where the run would not be the same
Repeats = Callable[[LaunchPlan, dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Look:
    """A spec, the machine, and where it would run."""

    loaded: LoadedSpec
    facts: HostFacts
    runner: Runner
    choices: Choices

    @property
    def spec(self) -> JobSpec:
        """The spec that was looked at."""
        return self.loaded.spec

    def plan(self) -> LaunchPlan:
        """The plan; what is wrong with it is said with the spec's line."""
        try:
            return make_plan(self.spec, self.facts, self.choices)
        except DimbaError as error:
            raise located(error, self.loaded) from None


def look(
    loaded: LoadedSpec,
    progress: RowsRead,
    *,
    tokenise: bool = False,
    choices: Choices | None = None,
    ask: bool = False,
    image: str | None = None,
    found: FoundRunner | None = None,
    gpu: GpuFacts | None = None,
    own: bool = False,
) -> Look:
    """Looks at everything that the spec names; starts nothing but our own trainers' `--help`, others' to `ask`.

    `progress` gets the rows read so far; `found` and `gpu` are what an earlier look found, `image` the one that the job
    had before. To `tokenise` is to look at the data where the trainer runs too, if that can be done without building
    anything. `own` is a spec that whoever runs this is just writing.
    """
    runner, engine = found or find_runner(loaded.spec.runner)
    nodes = runner.nodes(loaded.spec)
    facts = probe(loaded.spec, engine, folder=Path.cwd(), progress=progress, gpu=nodes.gpu if nodes else gpu)
    facts = facts.on(nodes) if nodes else facts
    choices = choices or choices_of(Options())
    before = runner.look(_in_image(loaded.spec, image)) if image else None
    image_facts = before if before and before.id else runner.look(loaded.spec)
    facts = replace(facts, harms=() if own else harms_of(loaded, facts.folder))
    # Where the job was meant for a container that cannot be had, nothing of it runs on this machine instead.
    wanted = loaded.spec.runner
    contained = runner.capabilities.runs_in_image or not facts.harms
    ask = ask and (wanted == runner.name or (wanted == AUTO and contained))
    usable = image_facts if ask else _harmless(image_facts, facts)
    trainer = trainer_facts(facts, usable, runner.run_once, ask=ask)
    facts = replace(facts, image=usable, trainer=trainer)
    tokenise = tokenise and (ask or not any(each.key.startswith("trainer_args.") for each in facts.harms))
    facts = with_report(loaded.spec, facts, runner, now=tokenising(facts, progress) if tokenise else None)
    return Look(loaded=loaded, facts=replace(facts, image=image_facts), runner=runner, choices=choices)


def _harmless(image: ImageFacts | None, facts: HostFacts) -> ImageFacts | None:
    """The image as if it was not there yet, where a stranger may have made it: nothing is executed in it then."""
    strange = any(each.key in IMAGES for each in facts.harms)
    return replace(image, id=None) if image and strange else image


def _in_image(spec: JobSpec, image: str) -> JobSpec:
    return spec.model_copy(update={"container": spec.container.model_copy(update={"image": image})})


def tokenising(facts: HostFacts, progress: RowsRead) -> Callable[[int], None]:
    """Hands on how many rows are tokenised, of how many."""
    total = facts.data.summary.rows if facts.data.summary else 0
    return lambda rows: progress(rows, total)


def located(error: DimbaError, loaded: LoadedSpec) -> DimbaError:
    """The error with the line of the spec that its key is on."""
    if isinstance(error, SeveralErrors):
        return SeveralErrors([located(each, loaded) for each in error.errors])
    key = error.message.partition(":")[0]
    if key in loaded.lines:
        error.message = f"{loaded.at(key)}{error.message[len(key) :]}"
    return error


def launch(
    loaded: LoadedSpec,
    reporter: Reporter,
    options: Options | None = None,
    *,
    detach: bool = False,
    trust: bool = False,
    ask: Ask | None = None,
) -> RunRecord:
    """Runs a spec to its end (or, detached, until it has started or waits for GPUs).

    What could harm the reader of a stranger's spec has to be in their `trust`, or they are to `ask`.

    Raises:
        DimbaError: with the exit status of what went wrong; the run's record says the same.
    """
    require_trust(loaded, Path.cwd(), trust=trust, ask=ask)
    options = options or Options()
    seen = look(loaded, reporter.rows, choices=choices_of(options), ask=True)
    return begin(seen, options, reporter, detach=detach)


def begin(
    seen: Look, options: Options, reporter: Reporter, *, detach: bool, repeats: Repeats | None = None
) -> RunRecord:
    """Plans, puts on record what the run is made of, and carries it on; where it `repeats` another, that judges it."""
    plan = _benefit_of_the_doubt(seen).plan()
    for note in plan.notes:
        reporter.note(note)
    made_of = provenance(seen.facts, plan.host_environment, reporter.progress)
    reporter.ended()
    if repeats:
        made_of |= repeats(plan, made_of)
    run = Run.create(plan, seen.loaded, seen.facts, options, made_of)
    run.update(trusted=remember_run(run.folder.id, seen.loaded, seen.facts.folder))
    return carry_on(run, seen, reporter, detach=detach)


def choices_of(options: Options, *, run_id: str | None = None, checkpoint: Path | None = None) -> Choices:
    """What the plan needs to know of the command line."""
    return Choices(
        allow_cpu=options.allow_cpu,
        gpu_path=os.environ.get(contract.ENV_GPU_PATH),
        time_limit=options.time_limit,
        kill_hung=options.restart_hung,
        run_id=run_id,
        checkpoint=checkpoint,
    )


def carry_on(run: Run, seen: Look, reporter: Reporter, *, detach: bool) -> RunRecord:
    """From a record to the end of its job, in as many attempts as it may have; detached, until its job runs.

    What has to wait, or may have to try again, is left to a process of its own when it is detached.
    """
    attended = detach and run.record.retries > 0
    with run.closing_on_failure():
        with signals(interrupted):
            seen = prepare(seen, run, reporter)
        ours = seen.plan().gpus and seen.runner.capabilities.leases_gpus
        desk = GpuLeases(run.folder, seen.runner.name, machine()) if ours else None
        with signals(interrupted):
            given = _cards(run, seen, desk, reporter, wait=not detach)
        if given is None or attended:
            spawn_attendant(run.folder)
            return run.record
        seen = replace(seen, choices=replace(seen.choices, gpu_ids=given))
        _attempt(run, seen, desk, reporter, detach=detach)
    return run.record


def _cards(run: Run, seen: Look, desk: GpuLeases | None, reporter: Reporter, *, wait: bool) -> tuple[str, ...] | None:
    """The cards that the run may use; None where it has to wait and may not."""
    plan = seen.plan()
    if desk is None:
        return plan.gpu_ids
    if run.record.share:
        desk.take(plan.gpu_ids)
        return plan.gpu_ids
    wanted = wanted_by(seen.spec, plan, seen.facts)
    answer = desk.ask(wanted)
    if answer.gpus is not None:
        return answer.gpus

    def say(text: str) -> None:
        run.update(status="queued", waits_for=text)
        reporter.note(f"waiting for its turn: {text} (`--share` would not wait)")

    if not wait:
        say(waiting_for(answer))
        return None
    return desk.wait(wanted, say)


def _attempt(run: Run, seen: Look, desk: GpuLeases | None, reporter: Reporter, *, detach: bool) -> None:
    """Starts the job and follows it; once more where that may help and is allowed."""
    with signals(run.interrupt):
        try:
            job = run.start(seen.runner, seen.plan(), reporter)
            if desk:
                desk.hand_over(job)
            if detach and run.events.empty():
                return
            return run.follow(seen.runner, job, reporter)
        except RunFailed as error:
            if run.record.exit_reason not in TRANSIENT or len(run.record.attempts) > run.record.retries:
                raise
            reporter.note(f"{error.message}: attempt {len(run.record.attempts) + 1} of {run.record.retries + 1}")
        finally:
            if desk and not (detach and run.record.status == "running"):
                desk.give_back()
    checkpoint = newest_whole(seen.plan().output_dir)
    carry_on(
        run, replace(seen, choices=replace(seen.choices, checkpoint=checkpoint, gpu_ids=None)), reporter, detach=detach
    )


def _benefit_of_the_doubt(seen: Look) -> Look:
    """Somebody else's trainer cannot be asked before its image is there, and its source may not tell: it takes all."""
    trainer, image = seen.facts.trainer, seen.facts.image
    if image is None or image.id or trainer.in_image:
        return seen
    flags = EVERY_ALIAS | {f"--{name}" for name in seen.spec.trainer_args}
    return replace(seen, facts=replace(seen.facts, trainer=replace(trainer, flags=flags)))


def prepare(seen: Look, run: Run, reporter: Reporter) -> Look:
    """Makes the image where it is missing, and looks again at what the trainer in it really takes."""
    facts = seen.facts
    if facts.image is None or facts.image.id is None:
        run.update(status="building")
        image = seen.runner.prepare(seen.spec, reporter.progress)
        reporter.ended()
        trainer = trainer_facts(facts, image, seen.runner.run_once, ask=True)
        facts = replace(facts, image=image, trainer=trainer)
    return replace(seen, facts=facts)
