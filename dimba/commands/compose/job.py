"""`docker compose run job`: plans a spec inside the container that runs it, and refuses what this one cannot do."""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from dimba.commands.compose.command import Command, read_secrets
from dimba.commands.compose.gpus import usable_gpus, visible_devices
from dimba.commands.compose.mounts import is_mounted
from dimba.common.contract import ENV_ALLOW_CPU, ENV_PINS, LATEST, SHORTEST_SECRET, absolute, looks_like_path
from dimba.common.errors import BadInput, DimbaError, raise_all
from dimba.common.project import project_root
from dimba.common.runners import IN_ENGINE
from dimba.host.build_context import image_extra
from dimba.host.facts import EngineFacts, GpuFacts, HostFacts, ImageFacts
from dimba.host.packages import library_versions
from dimba.host.trust_requirements import find_trust_requirements
from dimba.jobs.context import JobContext, Policy, gather
from dimba.plan.build import Choices
from dimba.plan.model import LaunchPlan
from dimba.records.store import make_folder
from dimba.runners.protocol import FoundRunner
from dimba.runners.registry import host_runner
from dimba.spec import JobSpec, LoadedSpec, load_spec


def job_command(words: Sequence[str]) -> Command:
    """The command of the spec that JOB or the first word names. Raises all problems at once."""
    args = _parser().parse_args(words)
    if not args.spec:
        raise BadInput("no spec is named", "run `JOB=jobs/x.yaml docker compose run --rm --build job`")
    secrets = read_secrets()
    loaded = _load(args.spec)
    given = usable_gpus(requested=loaded.spec.resources.gpus != "none")
    try:
        plan = _plan(loaded, secrets, given)
    except DimbaError as error:
        raise _with_launch_hint(loaded.locate(error), args.spec) from None
    if args.plan:
        sys.stdout.write(json.dumps(plan.as_json(), indent=2, ensure_ascii=False) + "\n")
        sys.exit(0)
    return _command(plan, secrets, given)


def _plan(loaded: LoadedSpec, secrets: dict[str, str], given: GpuFacts) -> LaunchPlan:
    raise_all([*_unsupported(loaded.spec), *_missing(loaded.spec, secrets)])
    plan = _context(loaded, secrets, given).plan()
    raise_all(list(_unmounted(plan)))
    return plan


def _command(plan: LaunchPlan, secrets: dict[str, str], given: GpuFacts) -> Command:
    for note in plan.notes:
        sys.stderr.write(f"{note}\n")
    for folder in plan.writable:
        make_folder(folder, plan.uid, plan.gid)
    return Command(
        argv=plan.argv,
        environment=plan.environment | visible_devices(plan.gpus, given),
        secrets={name: secrets.get(name) or os.environ[name] for name in plan.host_environment},
        folder=Path(plan.working_dir),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="docker compose run --rm job", description="Runs a job spec.")
    parser.add_argument(
        "spec", nargs="?", default=os.environ.get("JOB"), metavar="SPEC", help="a job spec (default: $JOB)"
    )
    parser.add_argument("--plan", action="store_true", help="print the plan as JSON, and start nothing")
    return parser


def _load(path: str) -> LoadedSpec:
    try:
        return _without_recipe(load_spec(Path(path), [f"runner={IN_ENGINE}"]))
    except BadInput as error:
        if not is_mounted(absolute(path)):
            error.hint = "move the spec into jobs/, data/ or checkpoints/, which the container mounts"
        raise


def _without_recipe(loaded: LoadedSpec) -> LoadedSpec:
    """The spec; raises BadInput for a recipe, whose data would not be compared here."""
    if loaded.recipe is None:
        return loaded
    raise BadInput(
        "is a recipe, which `dimba launch` compares with this machine",
        "launch it with `dimba launch`; or remove `recipe:`",
        file=loaded.source,
    )


def _allow_cpu() -> bool:
    return bool(os.environ.get(ENV_ALLOW_CPU))


def _context(loaded: LoadedSpec, secrets: dict[str, str], gpu: GpuFacts) -> JobContext:
    short = {name for name, value in secrets.items() if len(value) < SHORTEST_SECRET}

    def in_this_container(facts: HostFacts) -> HostFacts:
        names = facts.environment | secrets.keys()
        return replace(facts, image=_own_image(), environment=names, short_secrets=facts.short_secrets | short)

    policy = Policy(
        asks="any",
        trusts_spec=True,  # parts that require trust are already refused
        choices=Choices(allow_cpu=_allow_cpu()),
        gpu=gpu,
        elsewhere=in_this_container,
    )
    return gather(loaded, FoundRunner(host_runner(), EngineFacts(reachable=True)), policy)


def _own_image() -> ImageFacts:
    """The image of this container."""
    latest = os.environ.get(ENV_PINS) == LATEST
    named = ImageFacts(reference="dimba:compose", key="compose", base=None, base_digest=None, id="this container")
    return replace(named, pins=LATEST, versions=library_versions()) if latest else named


def _unsupported(spec: JobSpec) -> Iterator[DimbaError]:
    """A problem for each part of a spec that this container lacks, or that requires trust."""
    # The environment holds only variables that compose.yaml and the command line set, so none of them needs trust.
    for requirement in find_trust_requirements(spec, Path.cwd(), project_root(), environment=()):
        yield BadInput(requirement.what, key=requirement.key)
    if spec.container.network in ("none", "host"):
        yield BadInput(f"compose.yaml does not provide `{spec.container.network}`", key="container.network")
    if spec.resources.memory:
        yield BadInput("compose.yaml limits no memory", key="resources.memory")
    data = [(f"{key}.path", each.path or "") for key, each in spec.sources.items()]
    for key, place in [("base_checkpoint", spec.base_checkpoint), *data, ("output_dir", spec.output_dir)]:
        if place and (key != "base_checkpoint" or looks_like_path(place)) and not is_mounted(absolute(place)):
            yield BadInput(f"{absolute(place)} is not mounted in this container", key=key)


def _missing(spec: JobSpec, secrets: dict[str, str]) -> Iterator[DimbaError]:
    for name in spec.container.env:
        if "=" not in name and name not in secrets and name not in os.environ:
            hint = f"pass it with `docker compose run -e {name} …`, a secret with `{name}_FILE=… docker compose run …`"
            yield BadInput(f"`{name}` is not set in this container", hint, key="container.env")
    if spec.container.pins == LATEST != os.environ.get(ENV_PINS):
        yield BadInput("this image has the tested versions", "build it with DIMBA_PINS=latest", key="container.pins")
    if image_extra(spec) and find_spec("vllm") is None:
        yield BadInput("this image has no vLLM", "build it with DIMBA_WITH=-vllm", key="trainer_args.sampler")


def _unmounted(plan: LaunchPlan) -> Iterator[DimbaError]:
    for mount in plan.mounts:
        if not is_mounted(Path(mount.source)):
            yield BadInput(f"{mount.source} is not mounted in this container")
    shm = os.statvfs("/dev/shm")  # noqa: S108  # NCCL and data loaders use it
    if shm.f_blocks * shm.f_frsize < plan.shm_bytes:
        gib = plan.shm_bytes / (1 << 30)
        yield BadInput(f"the job needs {gib:g} GiB", f"set DIMBA_SHM_SIZE={gib:g}g", key="resources.shm_size")


def _with_launch_hint(error: DimbaError, spec: str) -> DimbaError:
    mounted = "compose.yaml mounts only checkpoints/, data/ and jobs/; mount more with -v"
    launch = f"use `dimba launch {spec}`, which supports every part of a spec; {mounted}"
    error.hint = f"{error.hint}; or {launch}" if error.hint else launch
    return error
