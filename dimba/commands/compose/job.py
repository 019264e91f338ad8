"""`docker compose run job`: a spec's plan, made in the container that runs it; what needs another is refused."""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from dimba.commands.compose.cards import cards, only
from dimba.commands.compose.places import is_shown
from dimba.commands.compose.start import Start, secrets_given
from dimba.common.contract import ENV_ALLOW_CPU, SHORTEST_SECRET, absolute, is_written_as_path
from dimba.common.errors import BadInput, DimbaError, raise_all
from dimba.common.runners import IN_ENGINE
from dimba.host.build_context import image_extra
from dimba.host.facts import EngineFacts, GpuFacts, HostFacts, ImageFacts
from dimba.host.probe import project_root
from dimba.host.trust_requirements import find_harms
from dimba.jobs.context import JobContext, Policy, gather
from dimba.plan.build import Choices
from dimba.plan.model import LaunchPlan
from dimba.records.store import make_folder
from dimba.runners.protocol import FoundRunner
from dimba.runners.registry import host_runner
from dimba.spec import JobSpec, LoadedSpec, load_spec

_IMAGE = ImageFacts(reference="dimba:compose", key="compose", base=None, base_digest=None, id="this container")


def job(words: Sequence[str]) -> Start:
    """What starts for the spec that JOB (or the first word) names. Raises what is in the way, all at once."""
    args = _parser().parse_args(words)
    if not args.spec:
        raise BadInput("no spec is named", "JOB=jobs/x.yaml docker compose run --rm --build job")
    secrets = secrets_given()
    loaded = _load(args.spec)
    given = cards(wanted=loaded.spec.resources.gpus != "none")
    try:
        raise_all([*_not_here(loaded.spec), *_not_given(loaded.spec, secrets)])
        plan = _context(loaded, secrets, given).plan()
        raise_all(list(_not_shown(plan)))
    except DimbaError as error:
        raise _with_a_way_out(loaded.locate(error), args.spec) from None
    if args.plan:
        sys.stdout.write(json.dumps(plan.as_json(), indent=2, ensure_ascii=False) + "\n")
        sys.exit(0)
    for note in plan.notes:
        sys.stderr.write(f"{note}\n")
    for folder in plan.writable:
        make_folder(folder, plan.uid, plan.gid)
    return Start(
        argv=plan.argv,
        environment=plan.environment | only(plan.gpus, given),
        secrets={name: secrets.get(name) or os.environ[name] for name in plan.host_environment},
        folder=Path(plan.working_dir),
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="docker compose run --rm job", description="Runs a job spec.")
    parser.add_argument(
        "spec", nargs="?", default=os.environ.get("JOB"), metavar="SPEC", help="without it, what JOB names"
    )
    parser.add_argument("--plan", action="store_true", help="print the plan as JSON, and start nothing")
    return parser


def _load(path: str) -> LoadedSpec:
    try:
        return load_spec(Path(path), [f"runner={IN_ENGINE}"])
    except BadInput as error:
        if not is_shown(absolute(path)):
            error.hint = "the container sees specs in jobs/, data/ and checkpoints/"
        raise


def _allow_cpu() -> bool:
    return bool(os.environ.get(ENV_ALLOW_CPU))


def _context(loaded: LoadedSpec, secrets: dict[str, str], gpu: GpuFacts) -> JobContext:
    short = {name for name, value in secrets.items() if len(value) < SHORTEST_SECRET}

    def in_this_container(facts: HostFacts) -> HostFacts:
        names = facts.environment | secrets.keys()
        return replace(facts, image=_IMAGE, environment=names, short_secrets=facts.short_secrets | short)

    policy = Policy(
        asks="any",
        trusts_spec=True,  # what would need trust was refused
        choices=Choices(allow_cpu=_allow_cpu()),
        gpu=gpu,
        elsewhere=in_this_container,
    )
    return gather(loaded, FoundRunner(host_runner(), EngineFacts(reachable=True)), policy)


def _not_here(spec: JobSpec) -> Iterator[DimbaError]:
    """What of a spec this container cannot give, or would give a stranger without asking."""
    # The environment here is what compose.yaml and whoever typed the command put into it, not somebody's own.
    for harm in find_harms(spec, Path.cwd(), project_root(), environment=()):
        yield BadInput(harm.what, key=harm.key)
    if spec.container.network in ("none", "host"):
        yield BadInput(f"`{spec.container.network}` is not compose.yaml's", key="container.network")
    if spec.resources.memory:
        yield BadInput("compose.yaml sets no limit", key="resources.memory")
    places = {"base_checkpoint": spec.base_checkpoint, "dataset.path": spec.dataset.path, "output_dir": spec.output_dir}
    for key, place in places.items():
        if place and (key != "base_checkpoint" or is_written_as_path(place)) and not is_shown(absolute(place)):
            yield BadInput(f"{absolute(place)} is not shown to this container", key=key)


def _not_given(spec: JobSpec, secrets: dict[str, str]) -> Iterator[DimbaError]:
    for name in spec.container.env:
        if "=" not in name and name not in secrets and name not in os.environ:
            hint = f"give it with `docker compose run -e {name} …`, a secret with `{name}_FILE=… docker compose run …`"
            yield BadInput(f"`{name}` is not set in this container", hint, key="container.env")
    if image_extra(spec) and find_spec("vllm") is None:
        yield BadInput("this image has no vLLM", "build it with DIMBA_WITH=-vllm, or", key="trainer_args.use-vllm")


def _not_shown(plan: LaunchPlan) -> Iterator[DimbaError]:
    for mount in plan.mounts:
        if not is_shown(Path(mount.source)):
            yield BadInput(f"{mount.source} is not shown to this container")
    room = os.statvfs("/dev/shm")  # noqa: S108  # what NCCL and the loaders use
    if room.f_blocks * room.f_frsize < plan.shm_bytes:
        gib = plan.shm_bytes / (1 << 30)
        yield BadInput(f"the job is to have {gib:g} GiB", f"set DIMBA_SHM_SIZE={gib:g}g, or", key="resources.shm_size")


def _with_a_way_out(error: DimbaError, spec: str) -> DimbaError:
    shown = "compose.yaml shows a job checkpoints/, data/ and jobs/, and what you mount with -v"
    launch = f"`dimba launch {spec}` asks, mounts and limits what a spec names; {shown}"
    error.hint = f"{error.hint}\n      {launch}" if error.hint else launch
    return error
