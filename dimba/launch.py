"""The use case: look → plan → record → prepare → start → follow → close."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from dimba import contract
from dimba.errors import DimbaError, SeveralErrors
from dimba.host.facts import EngineFacts, GpuFacts, HostFacts
from dimba.host.probe import probe, project_root
from dimba.lifecycle import Reporter, Run, interrupted, signals
from dimba.plan import LaunchPlan, make_plan
from dimba.plan.build import Choices
from dimba.plan.flags import EVERY_ALIAS
from dimba.preview import with_report
from dimba.runners.flags import trainer_facts
from dimba.runners.protocol import Runner
from dimba.runs import RunRecord
from dimba.spec import JobSpec, LoadedSpec

RowsRead = Callable[..., None]  # (rows read), or (rows tokenised, of how many)


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


def find_runner(wanted: str) -> tuple[Runner, EngineFacts]:
    """The runner that `wanted` (a spec's `runner`) means here; the engine is asked only where it matters."""
    from dimba.runners.process import ProcessRunner

    if wanted == "process":
        return ProcessRunner(), EngineFacts(reachable=False, problem="not asked for")
    from dimba.runners.docker.engine import Engine, connect
    from dimba.runners.docker.runner import DockerRunner

    found = connect()
    if isinstance(found, Engine):
        return DockerRunner(found, project_root()), found.facts
    return ProcessRunner(), found


def look(
    loaded: LoadedSpec,
    progress: RowsRead,
    *,
    tokenise: bool = False,
    allow_cpu: bool = False,
    ask: bool = False,
    found: tuple[Runner, EngineFacts] | None = None,
    gpu: GpuFacts | None = None,
) -> Look:
    """Looks at everything that the spec names; starts nothing but our own trainers' `--help`, others' to `ask`.

    `progress` gets the rows read so far; `found` and `gpu` are what an earlier look found. To `tokenise` is to look at
    the data where the trainer runs too, if that can be done without building anything.
    """
    runner, engine = found or find_runner(loaded.spec.runner)
    facts = probe(loaded.spec, engine, folder=Path.cwd(), progress=progress, gpu=gpu)
    choices = Choices(allow_cpu=allow_cpu, gpu_path=os.environ.get(contract.ENV_GPU_PATH))
    image = runner.look(loaded.spec)
    # Where the job was meant for a container that cannot be had, nothing of it runs on this machine instead.
    ask = ask and loaded.spec.runner in ("auto", runner.name)
    facts = replace(facts, image=image, trainer=trainer_facts(facts, image, runner.run_once, ask=ask))
    facts = with_report(loaded.spec, facts, runner, now=tokenising(facts, progress) if tokenise else None)
    return Look(loaded=loaded, facts=facts, runner=runner, choices=choices)


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


def launch(loaded: LoadedSpec, reporter: Reporter, *, allow_cpu: bool = False, detach: bool = False) -> RunRecord:
    """Runs a spec to its end (or, detached, until it has started).

    Raises:
        DimbaError: with the exit status of what went wrong; the run's record says the same.
    """
    seen = look(loaded, reporter.rows, allow_cpu=allow_cpu, ask=True)
    plan = _benefit_of_the_doubt(seen).plan()
    for note in plan.notes:
        reporter.note(note)
    run = Run.create(plan, loaded, seen.facts, allow_cpu=allow_cpu)
    with run.closing_on_failure():
        with signals(interrupted):
            ready = prepare(seen, run, reporter)
        with signals(run.interrupt):
            job = run.start(seen.runner, ready, reporter)
            if not detach or not run.events.empty():
                run.follow(seen.runner, job, reporter)
    return run.record


def _benefit_of_the_doubt(seen: Look) -> Look:
    """Somebody else's trainer cannot be asked before its image is there, and its source may not tell: it takes all."""
    trainer, image = seen.facts.trainer, seen.facts.image
    if image is None or image.id or trainer.in_image:
        return seen
    flags = EVERY_ALIAS | {f"--{name}" for name in seen.spec.trainer_args}
    return replace(seen, facts=replace(seen.facts, trainer=replace(trainer, flags=flags)))


def prepare(seen: Look, run: Run, reporter: Reporter) -> LaunchPlan:
    """Makes the image where it is missing, and plans again with what the trainer in it really takes."""
    facts = seen.facts
    if facts.image is None or facts.image.id is None:
        run.update(status="building")
        image = seen.runner.prepare(seen.spec, reporter.progress)
        reporter.ended()
        trainer = trainer_facts(facts, image, seen.runner.run_once, ask=True)
        facts = replace(facts, image=image, trainer=trainer)
    return replace(seen, facts=facts).plan()
