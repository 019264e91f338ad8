"""Probes the machine for one spec: (JobSpec, engine) → HostFacts."""

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from dimba.common.checkpoint.check import is_installed
from dimba.common.checkpoint.quantization import PACKAGES
from dimba.common.checkpoint.releases import installed_release
from dimba.common.checkpoint.tokens import absent_tokens
from dimba.common.contract import ENV_RUNS, SHORTEST_SECRET, SKIP_BAD_ROWS, absolute, is_secret_name
from dimba.common.output_store import local_folder
from dimba.common.project import project_root
from dimba.host.cached_base import at_revision
from dimba.host.checkpoint import look_at_checkpoint
from dimba.host.data import look_at_data
from dimba.host.facts import CheckpointFacts, DataFacts, EngineFacts, GpuFacts, HostFacts, OutputFacts
from dimba.host.gpus import find_gpus
from dimba.host.named_paths import look_at_named_paths
from dimba.host.output import look_at_output, may_read
from dimba.host.packages import install_command, missing_packages, pip_install
from dimba.host.places import why_not_write
from dimba.host.proxies import is_on_this_machine, proxies_in
from dimba.host.trainer import find_trainer
from dimba.options.tracking_table import TRACKERS
from dimba.spec import JobSpec

_SWITCHES = ("0", "1", "true", "false", "yes", "no", "on", "off")  # HF_HUB_DISABLE_IMPLICIT_TOKEN=1 is no secret


def runs_folder(folder: Path) -> Path:
    """The folder of run records: `DIMBA_RUNS`, else `runs/` in the folder that dimba is run in."""
    return absolute(os.environ.get(ENV_RUNS) or "runs", folder)


def _checkpoint(spec: JobSpec, folder: Path, cache: Path) -> CheckpointFacts:
    allow_pickle = spec.trainer_args.get("allow-pickle") is True
    facts = look_at_checkpoint(spec.base_checkpoint, folder, allow_pickle=allow_pickle)
    if spec.base_revision:
        facts = at_revision(facts, spec.base_revision, cache, allow_pickle=allow_pickle)
    if facts.problem or not facts.local:
        return facts
    return replace(facts, absent_tokens=absent_tokens(Path(facts.reference), spec.lora.trainable_tokens))


def probe(
    spec: JobSpec,
    engine: EngineFacts,
    *,
    folder: Path,
    progress: Callable[[int], None] = lambda _rows: None,
    gpu: GpuFacts | None = None,
    runs: Path | None = None,
    read: bool = True,
    in_container: bool = False,
) -> HostFacts:
    """Facts about everything that `spec` names; problems become part of the facts, and the plan decides on them.

    Without `read`, data files are only checked for existence. `in_container`, the job's user lacks the caller's groups.
    """
    output = look_at_output(spec.output_dir, folder)
    cache = hub_cache(output.uid, output.home, folder)
    checkpoint = _checkpoint(spec, folder, cache)
    skip_bad = spec.trainer_args.get(SKIP_BAD_ROWS) is True
    data = look_at_data(spec.dataset, folder, progress, spec.mode, skip_bad=skip_bad, read=read)
    missing = missing_packages()
    return HostFacts(
        folder=folder,
        runs=runs or runs_folder(folder),
        project=project_root(),
        python=sys.executable,
        cores=len(os.sched_getaffinity(0)),
        cache=cache,
        environment=frozenset(os.environ),
        local_proxies=frozenset(name for name in proxies_in(os.environ) if is_on_this_machine(os.environ[name])),
        short_secrets=frozenset(name for name, value in os.environ.items() if _is_short_secret(name, value)),
        gpu=gpu or find_gpus(engine.cdi_devices),
        engine=engine,
        checkpoint=checkpoint,
        packages=_packages(checkpoint, spec),
        data=data,
        trainer=find_trainer(spec.trainer, spec.mode, folder, project_root()),
        output=output,
        missing_packages=missing,
        install_command=install_command(project_root()) if missing else "",
        transformers=installed_release(),
        pip_install=pip_install(),
        named=look_at_named_paths(spec, folder),
        store_problem=_store_problem(spec),
        unreadable=_unreadable(checkpoint, data, output, in_container=in_container),
    )


def _packages(base: CheckpointFacts, spec: JobSpec) -> frozenset[str]:
    sampler = spec.objective.sampler(spec.trainer_args)
    needed = [*(PACKAGES if base.quantization else ()), *base.tokenizer_needs]
    needed += [TRACKERS[tracker] for tracker in spec.training.trackers]
    needed += ["vllm"] if sampler and sampler.is_vllm else []
    return frozenset(filter(is_installed, needed))


def _store_problem(spec: JobSpec) -> str:
    folder = local_folder(spec.output_store) if spec.output_store else None
    return why_not_write(folder) if folder else ""


def _is_short_secret(name: str, value: str) -> bool:
    return is_secret_name(name) and len(value) < SHORTEST_SECRET and value.lower() not in _SWITCHES


def _unreadable(
    checkpoint: CheckpointFacts, data: DataFacts, output: OutputFacts, *, in_container: bool
) -> tuple[Path, ...]:
    files = list(data.files) if not data.problem else []
    if checkpoint.local and not checkpoint.problem:
        files += sorted(file for file in Path(checkpoint.reference).iterdir() if file.is_file())
    return tuple(file for file in files if not may_read(file, output.uid, output.gid, plain=in_container))


def hub_cache(uid: int, home: Path, folder: Path) -> Path:
    """The Hugging Face cache of the job's user, whose home is `home`: HF_HOME, or a folder of runs without either."""
    if os.environ.get("HF_HOME"):
        return absolute(os.environ["HF_HOME"], folder)
    home = Path.home() if uid == os.geteuid() else home
    if not home.is_dir():
        return runs_folder(folder) / ".cache" / "huggingface"
    return home / ".cache" / "huggingface"
