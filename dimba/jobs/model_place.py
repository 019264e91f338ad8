"""The place where a trained model is loaded: image, mounts, and GPUs that a lease gives for as long as it is used."""

import math
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from dimba.common.contract import ENV_ALLOW_CPU, ENV_GPU_PATH
from dimba.host.facts import Gpu
from dimba.jobs.gpu_leases import GpuLeases, Holder, machine
from dimba.jobs.lifecycle import Reporter, interrupted, signals
from dimba.jobs.model_source import ModelSource
from dimba.jobs.place import one_shot
from dimba.plan.model import Mount
from dimba.plan.placement import choose_gpus, gpu_devices
from dimba.records.leases import GpuRequest
from dimba.records.store import make_folder
from dimba.runners.protocol import OneShot

_ROOM = 1.3  # of the weights: activations, the cache of keys and values, CUDA's own memory
_NO_LIMIT = 365 * 24 * 3600.0  # seconds


@contextmanager
def place_of(
    source: ModelSource,
    command: str,
    reporter: Reporter,
    *,
    beside: Sequence[ModelSource] = (),
    mounts: Sequence[Mount] = (),
    writable: Sequence[Path] = (),
    variables: tuple[str, ...] = (),
    computes: bool = True,
    online: bool = False,
) -> Iterator[OneShot]:
    """A place with GPUs that are leased to `command` until the block ends; it waits for its turn.

    `beside`: further models that are loaded there; `mounts` beyond the models' own; `writable` folders; `variables`
    of this process that it gets as secrets; `online`: it needs the network for more than the models. What only talks
    to the Hub `computes` nothing, and gets no GPU.

    Raises:
        Interrupted: Ctrl-C while it waits.
    """
    name = f"{command}-{source.name}-{secrets.token_hex(2)}"
    make_folder(source.facts.cache, source.facts.output.uid, source.facts.output.gid)
    own = [each for one in (*beside, source) for each in one.mounts(*writable)]
    mounted = {each.target: each for each in (*mounts, *own)}
    with _leased(source, name, reporter) if computes else nullcontext(()) as gpus:
        place = one_shot(
            source.spec,
            source.facts,
            tuple(mounted.values()),
            is_local=all(each.is_local for each in (source, *beside)) and not (variables or online),
            further=variables,
            gpus=gpus,
            gpu_devices=gpu_devices(gpus, source.facts, os.environ.get(ENV_GPU_PATH)),
            timeout=_NO_LIMIT,
            name=name,
        )
        yield place.with_environment(_devices(source, gpus))


def _devices(source: ModelSource, gpus: Sequence[Gpu]) -> dict[str, str]:
    allowed = {ENV_ALLOW_CPU: "1"} if source.request.allow_cpu else {}
    if source.runner.capabilities.runs_in_image:
        return allowed
    return {**allowed, "CUDA_VISIBLE_DEVICES": ",".join(gpu.id for gpu in gpus)}


@contextmanager
def _leased(source: ModelSource, name: str, reporter: Reporter) -> Iterator[tuple[Gpu, ...]]:
    wanted = gpus_for(source)
    if wanted is None:
        yield ()
        return
    if not source.runner.capabilities.leases_gpus:
        yield tuple(gpu for gpu in source.facts.gpu.gpus if gpu.id in wanted.candidates[: wanted.count])
        return
    leases = GpuLeases(Holder(id=name, since=time.time()), source.runner.name, machine())
    try:
        with signals(interrupted):
            ids = leases.wait(wanted, lambda text: reporter.note(f"waiting for a GPU: {text}"))
        yield tuple(gpu for gpu in source.facts.gpu.gpus if gpu.id in ids)
    finally:
        leases.give_back()


def gpus_for(source: ModelSource) -> GpuRequest | None:
    """The GPUs that `--gpus` or a list in the spec names, else as few as hold the weights; None for the CPU."""
    gpus, _ = choose_gpus(source.spec, source.facts)
    if not gpus or source.trained.gguf:  # the image's llama.cpp computes on the CPU
        return None
    asked = source.spec.resources.gpus
    if isinstance(asked, list):
        return GpuRequest(candidates=tuple(gpu.id for gpu in gpus), count=len(gpus))
    candidates = tuple(gpu.id for gpu in source.facts.gpu.gpus)
    count = asked if isinstance(asked, int) and source.request.gpus else _needed(source, len(candidates))
    return GpuRequest(candidates=candidates, count=count)


def _needed(source: ModelSource, most: int) -> int:
    smallest = min((gpu.memory_mib or 0) for gpu in source.facts.gpu.gpus) << 20
    return min(most, max(1, math.ceil(source.weight_bytes * _ROOM / smallest))) if smallest else 1
