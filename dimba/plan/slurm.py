"""A plan as a script for `sbatch`, readable for administrators. Pure."""

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from dimba.common import contract
from dimba.common.contract import COMPLETE_FILE
from dimba.common.errors import BadInput, DimbaError
from dimba.host.facts import ClusterNodes, Gpu, GpuFacts, ImageFacts
from dimba.plan.model import LaunchPlan, SlurmJob
from dimba.spec import JobSpec, SlurmSite

_MIB = 1 << 20
JOB_SCRIPT = "job.sh"  # of an attempt
_SHORTEST_WARNING = 10  # seconds
# The id of one task of an array is that of the whole array.
_OF_JOB, _OF_TASK = "$SLURM_JOB_ID", "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
_FOR_CARDS = {
    "docker": '--gpus "\\"device=$SLURM_STEP_GPUS\\""',
    "podman": '"${cards[@]/#/--device=nvidia.com/gpu=}"',
}

_START = """\
# A requeued job continues from its newest complete checkpoint.
newest() {{ find "$output" -path '*/checkpoint-*/{whole}' | sort -V | tail -n 1; }}
before=$(newest)
if ((${{SLURM_RESTART_COUNT:-0}} > 0)) && [[ -n $before ]]; then
  job+=({flag} "$output")
fi
"""
_STEP = """\
# Shortly before the time limit the job is asked to save and end.
limit=
trap 'limit=1; scancel --signal=USR1 "{id}"' USR1

# One launcher per node starts one process per GPU; a failure ends the job on every node.
rm -f "$attempt"/exit*.json
{srun} bash -c "$(declare -f on_node)"'; on_node "$@"' node "${{job[@]}}" &
step=$!
wait "$step"
status=$?
while kill -0 "$step" 2>/dev/null; do # a signal ends the waiting, not the step
  wait "$step"
  status=$?
done
"""
_AGAIN = """\
# Requeued after the time limit, as long as each start gets further than the previous one.
if [[ -n $limit && $status != 0 && $(newest) != "$before" ]]; then
  echo "saved before the time limit, and queued again"
  scontrol requeue "{id}"
fi
"""


def cluster_cards(spec: JobSpec, site: SlurmSite) -> GpuFacts:
    """The GPUs of a node by index; this machine need not have any."""
    asked = spec.resources.gpus
    count = site.gpus_per_node if asked == "all" else asked
    found = count if isinstance(count, int) else 0
    return GpuFacts(gpus=tuple(Gpu(index=number) for number in range(found)), source="Slurm")


def cluster_nodes(spec: JobSpec, site: SlurmSite) -> ClusterNodes:
    """A node of the cluster, with the cores that are requested."""
    gpu = cluster_cards(spec, site)
    cores = (site.settings(spec.slurm).cpus or 1) * max(1, len(gpu.gpus))
    return ClusterNodes(gpu=gpu, cores=cores, slurm=site)


def cluster_image(spec: JobSpec, site: SlurmSite) -> ImageFacts | None:
    """The image on the nodes; None without a container."""
    settings = site.settings(spec.slurm)
    if settings.container in (None, "none"):
        return None
    image = settings.image or spec.container.image or ""
    return ImageFacts(reference=image, key=None, base=None, base_digest=None, id=None)


def slurm_problems(spec: JobSpec, site: SlurmSite) -> Iterator[DimbaError]:
    """The problems of a spec for the scheduler."""
    settings, asked = site.settings(spec.slurm), spec.resources.gpus
    contained = settings.container not in (None, "none")
    if asked == "all" and site.gpus_per_node is None:
        hint = "give a number, or `none`; or write `gpus_per_node: 8` in your slurm.yaml, which `all` then means"
        yield BadInput("the number of GPUs per node of the cluster is not known here", hint, key="resources.gpus")
    if isinstance(asked, list):
        yield BadInput("the scheduler chooses the GPUs", "give the number of GPUs per node", key="resources.gpus")
    if contained and not (settings.image or spec.container.image):
        hint = "name it as the nodes know it: `slurm: {image: …}`, a reference or a .sif file"
        yield BadInput(f"`{settings.container}`, and no image is named", hint, key="slurm.container")
    if spec.container.network in ("none", "bridge"):
        hint = "set `network: auto`: the nodes use the cluster's network"
        yield BadInput(f"`{spec.container.network}` is not rendered for Slurm", hint, key="container.network")
    if not contained and (spec.container.mounts or spec.container.image):
        hint = "choose one: `slurm: {container: apptainer}` (or docker, podman, pyxis)"
        yield BadInput(
            "the spec configures a container, and `slurm.container` asks for none", hint, key="slurm.container"
        )


def slurm_job(spec: JobSpec, site: SlurmSite, *, processes: int, resume_flag: str | None) -> SlurmJob:
    """The scheduler's settings: the spec's, completed by the site's."""
    settings = site.settings(spec.slurm)
    return SlurmJob(
        container=settings.container or "none",
        partition=settings.partition,
        account=settings.account,
        qos=settings.qos,
        time=settings.time,
        cpus=settings.cpus and settings.cpus * processes,
        extra=tuple(settings.extra),
        resume_flag=resume_flag,
    )


def slurm_script(plan: LaunchPlan, *, in_array: bool = False) -> str:
    """The script of a plan for an attempt; `in_array`, it is a task of `array_script`."""
    attempt, run = plan.environment[contract.ENV_ATTEMPT_DIR], plan.environment[contract.ENV_RUN_ID]
    job, log = settings_of(plan), Path(attempt, contract.LOG_FILE)
    parts = [
        f"#!/bin/bash\n# {plan.name}, run {run}; written by dimba from its job.yaml.",
        "\n".join(f"#SBATCH --{option}" for option in options_of(plan, job, plan.working_dir, literal(log), run)),
        "set -u\n" + _places(plan, attempt),
        f"cd {shlex.quote(plan.working_dir)} || exit" if in_array else "",
        _meeting(),
        _argv(plan),
        _START.format(whole=COMPLETE_FILE, flag=job.resume_flag) if job.resume_flag else "",
        _on_node(plan, job),
        _STEP.format(srun=_srun(plan, job), id=_OF_TASK if in_array else _OF_JOB),
        _AGAIN.replace("{id}", _OF_TASK if in_array else _OF_JOB) if job.resume_flag else "",
        'exit "$status"',
    ]
    return "\n\n".join(part.strip("\n") for part in parts if part) + "\n"


def settings_of(plan: LaunchPlan) -> SlurmJob:
    """The scheduler's settings of a plan for it."""
    assert plan.slurm is not None, "a plan for Slurm has it"
    return plan.slurm


def options_of(plan: LaunchPlan, job: SlurmJob, place: str, log: str, owner: str) -> Iterator[str]:
    """The options of sbatch; `log` is a pattern of Slurm's, `owner` the run or the sweep."""
    yield f"job-name={plan.name}"
    yield f"comment=dimba:{owner}"
    for name in ("partition", "account", "qos", "time"):
        if value := getattr(job, name):
            yield f"{name}={value}"
    yield f"nodes={plan.nodes}"
    yield "ntasks-per-node=1"
    if job.cpus:
        yield f"cpus-per-task={job.cpus}"
    if plan.gpus:
        yield f"gpus-per-node={len(plan.gpus)}"
    if plan.memory_bytes:
        yield f"mem={-(-plan.memory_bytes // _MIB)}M"
    yield f"chdir={shlex.quote(place)}"
    yield f"output={shlex.quote(log)}"
    yield "open-mode=append"
    yield f"signal=B:USR1@{_warning(plan, job)}"
    yield "requeue" if job.resume_flag else "no-requeue"
    yield from (option.removeprefix("--") for option in job.extra)


def literal(path: Path) -> str:
    """A path as a pattern of Slurm's, in which `%` begins a field."""
    return str(path).replace("%", "%%")


def _warning(plan: LaunchPlan, job: SlurmJob) -> int:
    """Seconds before the time limit at which the job is asked to save; less for a short limit."""
    wanted = plan.stop_seconds
    whole = slurm_seconds(job.time) if job.time else None
    return max(_SHORTEST_WARNING, min(wanted, whole // 2)) if whole else wanted


def slurm_seconds(time: str) -> int:
    """Seconds of a time in the format of sbatch(1)."""
    days, dash, rest = time.rpartition("-")
    numbers = [int(part) for part in rest.split(":")]
    if not dash and len(numbers) < 3:  # minutes, minutes:seconds
        numbers = [0, *numbers]
    hours, minutes, seconds = (*numbers, 0, 0)[:3]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


def _places(plan: LaunchPlan, attempt: str) -> str:
    return f"attempt={shlex.quote(attempt)}\noutput={shlex.quote(str(plan.output_dir))}"


def _meeting() -> str:
    return """\
# The ranks rendezvous on the first node.
address=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((10000 + SLURM_JOB_ID % 20000))"""


def _argv(plan: LaunchPlan) -> str:
    """The command `env` with the job's variables, which works inside and outside of a container."""
    fixed = {**plan.environment, contract.ENV_LOG_ON_STDOUT: "1"}
    if plan.host_environment:
        fixed[contract.ENV_SECRET_NAMES] = " ".join(plan.host_environment)
    words = [shlex.quote(f"{name}={value}") for name, value in sorted(fixed.items())]
    words += [f'{contract.ENV_NODES}="$SLURM_JOB_NUM_NODES"', f'{contract.ENV_MAIN_ADDRESS}="$address"']
    words.append(f'{contract.ENV_MAIN_PORT}="$port"')
    lines = [f"  {word}" for word in (*words, *_in_lines(plan.argv))]
    return "\n".join(["job=(", *lines, ")"])


def _in_lines(argv: Sequence[str]) -> Iterator[str]:
    """Words as lines of one flag with its values each."""
    line: list[str] = []
    for word in argv:
        if line and word.startswith("--"):
            yield shlex.join(line)
            line = []
        line.append(word)
    yield shlex.join(line)


def _on_node(plan: LaunchPlan, job: SlurmJob) -> str:
    inside = f'env "{contract.ENV_NODE_RANK}=$SLURM_NODEID" "$@"'
    words = [*_container(plan, job), inside]
    listed = '  IFS=, read -ra cards <<<"$SLURM_STEP_GPUS"\n' if job.container == "podman" and plan.gpus else ""
    return f"on_node() {{\n{listed}  exec " + " \\\n    ".join(words) + "\n}"


def _container(plan: LaunchPlan, job: SlurmJob) -> list[str]:
    image = shlex.quote(plan.image.reference) if plan.image else ""
    folder = shlex.quote(plan.working_dir)
    if job.container in ("docker", "podman"):
        return [*_engine(plan, job.container, folder), image]
    if job.container == "apptainer":
        mounts = [f"--bind {shlex.quote(each)}" for each in _mounts(plan)]
        return ["apptainer exec", *(["--nv"] if plan.gpus else []), *mounts, f"--pwd {folder}", _for_apptainer(image)]
    return []


def _engine(plan: LaunchPlan, name: str, folder: str) -> list[str]:
    who = ["--userns=keep-id"] if name == "podman" else []
    mounts = [f"--volume {shlex.quote(each)}" for each in _mounts(plan)]
    named = [f"--env {each}" for each in plan.host_environment]
    cards = _FOR_CARDS[name] if plan.gpus else "--env NVIDIA_VISIBLE_DEVICES=void"
    limits = [f"--shm-size {plan.shm_bytes}", *([f"--memory {plan.memory_bytes}"] if plan.memory_bytes else [])]
    run = plan.environment[contract.ENV_RUN_ID]
    return [
        f"{name} run --rm --init --network=host --user {plan.uid}:{plan.gid}",
        f"--cap-drop=ALL --security-opt=no-new-privileges --label {contract.LABEL_RUN_ID}={run}",
        *who,
        *limits,
        cards,
        *mounts,
        *named,
        f"--workdir {folder}",
    ]


def _for_apptainer(image: str) -> str:
    return image if image.strip("'").endswith(".sif") or "://" in image else f"docker://{image}"


def _mounts(plan: LaunchPlan) -> list[str]:
    return [f"{each.source}:{each.target}:{'ro' if each.read_only else 'rw'}" for each in plan.mounts]


def _srun(plan: LaunchPlan, job: SlurmJob) -> str:
    words = ["srun", "--ntasks-per-node=1", "--kill-on-bad-exit=1", "--input=none"]
    words += [f"--cpus-per-task={job.cpus}"] if job.cpus else []
    if job.container == "pyxis" and plan.image:
        words.append(f"--container-image={shlex.quote(plan.image.reference)}")
        words.append(f"--container-mounts={shlex.quote(','.join(_mounts(plan)))}")
        words.append(f"--container-workdir={shlex.quote(plan.working_dir)} --no-container-mount-home")
    return " \\\n  ".join([" ".join(words[:4]), *words[4:]])
