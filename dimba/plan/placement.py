"""Where the job runs: runner, GPUs, processes, precision."""

from collections.abc import Iterator, Mapping, Sequence

from dimba.common.contract import PREPARE
from dimba.common.errors import BadInput, DimbaError, EngineFailed, HostCannot
from dimba.common.runners import AUTO, ON_HOST, RENDERED, RUNNERS, Capabilities, capabilities_of, resolve_runner
from dimba.host.facts import EngineFacts, Gpu, HostFacts
from dimba.host.gpus import cdi_device
from dimba.plan.job import ResolvedJob
from dimba.spec import Container, JobSpec

_GIB = 1 << 30


def choose_runner(spec: JobSpec, facts: HostFacts, container: Container | None = None) -> tuple[str, str]:
    """(runner, note): the one of the spec, with `auto` resolved by whether an engine answers.

    `container` is what is wanted of one, in place of the spec's section.

    Raises:
        EngineFailed: the job needs an engine of this machine, and none answers.
    """
    runner = resolve_runner(spec.runner, engine_answers=facts.engine.reachable)
    if capabilities_of(runner).uses_engine:
        _require_engine(facts.engine)
    falls_back = spec.runner == AUTO and not facts.engine.reachable
    return runner, _fallback(container or spec.container, facts) if falls_back else ""


def _require_engine(engine: EngineFacts) -> None:
    if not engine.reachable:
        hint = f"start it (`systemctl start docker`), or set `runner: {ON_HOST}` to run without a container"
        raise EngineFailed(f"no container engine answers: {engine.problem}", hint)
    if not engine.local:
        raise EngineFailed(
            f"the engine at {engine.address} is on another machine: it would mount its own folders, not yours",
            "run dimba on that machine, or `docker context use default` and unset DOCKER_HOST",
        )


def _fallback(container: Container, facts: HostFacts) -> str:
    """The note for `auto` without an engine; raises EngineFailed if the job needs a container."""
    problem = facts.engine.problem
    if container.image or container.mounts or container.network == "none":
        hint = f"start one, or set `runner: {ON_HOST}` and remove `image`, `mounts` and `network` from `container`"
        raise EngineFailed(f"the spec configures a container, and no engine answers: {problem}", hint)
    if facts.trust_requirements:
        brought = f"the spec needs trust, so it runs in a container only ({facts.trust_requirements[0]})"
        hint = f"start one, or pass `--runner {ON_HOST}` to run it on this machine itself, with your permissions"
        raise EngineFailed(f"{brought}, and no engine answers: {problem}", hint)
    return f"no container engine ({problem}): running on this machine itself, with {facts.python}"


def choose_gpus(spec: JobSpec, facts: HostFacts, given: tuple[str, ...] | None = None) -> tuple[tuple[Gpu, ...], str]:
    """(GPUs, note); a number or a list must be met, `all` takes every GPU there is.

    `given` are those of them that a lease gave; before there is one, the first that would do.
    """
    asked, gpu = spec.resources.gpus, facts.gpu
    if given is not None:
        return tuple(each for each in gpu.gpus if each.id in given), ""
    if asked == "none":
        return (), "on the CPU, as asked"
    if asked == "all":
        return gpu.gpus, "" if gpu.gpus else f"on the CPU: {gpu.problem or 'no GPU here'}"
    if isinstance(asked, int):
        if asked > len(gpu.gpus):
            raise _too_few(f"asked for {asked}", gpu.gpus, gpu.problem)
        return gpu.gpus[:asked], "on the CPU, as asked" if asked == 0 else ""
    return tuple(_named(item, gpu.gpus, gpu.problem) for item in asked), ""


def _named(item: int | str, gpus: Sequence[Gpu], problem: str) -> Gpu:
    for gpu in gpus:
        if item in (gpu.index, str(gpu.index), gpu.uuid):
            return gpu
    raise _too_few(f"asked for GPU {item}", gpus, problem)


def _too_few(asked: str, gpus: Sequence[Gpu], problem: str) -> HostCannot:
    cards = ", ".join(f"{gpu.index}: {gpu.name or 'unnamed'}" for gpu in gpus)
    have = f"{len(gpus)} ({cards})" if cards else f"none ({problem})"
    hint = "set `gpus: all` to take every GPU" + ("" if gpus else ", `gpus: none` for the CPU")
    return HostCannot(f"{asked}; this machine has {have}", f"{hint}; run `dimba doctor`", key="resources.gpus")


def gpu_devices(gpus: Sequence[Gpu], facts: HostFacts, preferred: str | None) -> tuple[str, ...]:
    """CDI devices of the GPUs; empty if the engine's nvidia driver takes their ids."""
    devices = [cdi_device(gpu, facts.engine.cdi_devices) for gpu in gpus]
    found = tuple(device for device in devices if device)
    return () if preferred == "nvidia" or len(found) < len(gpus) else found


def world_size(spec: JobSpec, gpus: Sequence[Gpu]) -> int:
    """Processes of the job: one per GPU, or one per node on the CPU."""
    return spec.resources.nodes * max(1, len(gpus))


def shm_bytes(spec: JobSpec, processes: int) -> int:
    """Bytes of shared memory, a limit: NCCL and the loaders' queues use about 1 GiB per process."""
    return spec.resources.shm_size or (1 + processes) * _GIB


def precision(job: ResolvedJob, gpus: Sequence[Gpu]) -> str:
    """`auto` is float32 on the CPU, bf16 from compute capability 8.0 on, fp16 below."""
    written = job.accelerate.mixed_precision
    return auto_precision(gpus) if written == "auto" else written


def auto_precision(gpus: Sequence[Gpu]) -> str:
    """The fastest precision of these GPUs."""
    if not gpus:
        return "no"
    return "bf16" if all((gpu.compute_capability or 8.0) >= 8.0 for gpu in gpus) else "fp16"


def accelerate_argv(
    processes: int, mixed_precision: str, *, threads: int, on_cpu: bool, sharding: Sequence[str] = ()
) -> list[str]:
    """The command `accelerate launch` with every setting that it would otherwise warn about."""
    argv = ["accelerate", "launch", "--quiet", "--num_machines", "1", "--num_processes", str(processes)]
    argv += ["--mixed_precision", mixed_precision, "--dynamo_backend", "no"]
    argv += ["--num_cpu_threads_per_process", str(threads)]
    if sharding or processes > 1:
        argv += [*(sharding or ["--multi_gpu"]), "--main_process_port", "0"]
    return argv + (["--cpu"] if on_cpu else [])


def job_argv(
    trainer: str,
    *,
    gpus: int,
    precision: str,
    cores: int,
    tokenises: bool,
    python: str = "python",
    sharding: Sequence[str] = (),
) -> tuple[str, ...]:
    """The entry point, `accelerate launch`, and the wrapper that records each rank's end; the trainer's flags follow.

    A trainer that `tokenises` has that done beforehand, where its ranks would wait for one of them.
    """
    processes = max(1, gpus)
    threads = max(1, cores // processes)
    return (
        *(python, "-m", "dimba.supervisor.entry"),
        *([PREPARE] if processes > 1 and tokenises else []),
        *accelerate_argv(processes, precision, threads=threads, on_cpu=not gpus, sharding=sharding),
        *("-m", "dimba.supervisor.rank", trainer),
    )


def node_problems(spec: JobSpec, can: Capabilities) -> list[DimbaError]:
    """The refusal of several nodes on a runner with one."""
    if spec.resources.nodes == 1 or can.several_nodes:
        return []
    launched, rendered = (" or ".join(_with_nodes(names)) for names in (RUNNERS, RENDERED))
    hint = f"set `runner: {launched}` (or render with `--runner {rendered}`), or `nodes: 1`"
    return [BadInput("several nodes need a cluster", hint, key="resources.nodes")]


def _with_nodes(runners: Mapping[str, Capabilities]) -> Iterator[str]:
    return (name for name, can in runners.items() if can.several_nodes)
