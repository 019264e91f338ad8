"""Facts of the machine, which background probes collect from the start."""

import shutil
from typing import TYPE_CHECKING

from dimba.common.runners import AUTO
from dimba.host.facts import EngineFacts, GpuFacts
from dimba.host.gpus import find_gpus
from dimba.wizard.state import State

if TYPE_CHECKING:
    from dimba.runners.protocol import FoundRunner


def start_probes(state: State) -> None:
    """Start the probes that every session needs, after the first prompt is drawn."""
    state.probes.start("engine", _find_engine, later=state.interactive)
    state.probes.start("gpus", _find_gpus, later=state.interactive)


def engine(state: State) -> "FoundRunner":
    """(runner, facts) of the container engine, or of the process runner if none answers."""
    found: FoundRunner = state.probe("engine", "asking the container engine", _find_engine)
    return found


def engine_facts(state: State) -> EngineFacts:
    """The engine's version and devices, or the reason why none answers."""
    return engine(state).engine


def gpu_facts(state: State) -> GpuFacts:
    """The GPUs; without `nvidia-smi`, those that the engine can pass through."""
    found: GpuFacts | None = state.probe("gpus", "asking nvidia-smi", _find_gpus)
    return found or find_gpus(engine_facts(state).cdi_devices)


def _find_engine() -> "FoundRunner":
    from dimba.runners.registry import find_runner

    return find_runner(AUTO)


def _find_gpus() -> GpuFacts | None:
    return find_gpus() if shutil.which("nvidia-smi") else None
