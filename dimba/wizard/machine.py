"""The machine, looked at in the background from the start."""

import shutil
from typing import TYPE_CHECKING

from dimba.common.runners import AUTO
from dimba.host.facts import EngineFacts, GpuFacts
from dimba.host.gpus import find_gpus
from dimba.wizard.state import State

if TYPE_CHECKING:
    from dimba.runners.protocol import FoundRunner


def begin(state: State) -> None:
    """Starts the looks that every run of the wizard needs, once the first prompt stands."""
    state.probes.start("engine", _find_engine, later=state.asking)
    state.probes.start("gpus", _find_gpus, later=state.asking)


def engine(state: State) -> "FoundRunner":
    """(runner, facts) of the container engine, or of the process runner where none answers."""
    found: FoundRunner = state.look("engine", "asking the container engine", _find_engine)
    return found


def engine_facts(state: State) -> EngineFacts:
    """What the engine says of itself, or why there is none."""
    return engine(state).engine


def gpu_facts(state: State) -> GpuFacts:
    """The cards; without `nvidia-smi`, those that the engine can pass through."""
    found: GpuFacts | None = state.look("gpus", "asking nvidia-smi", _find_gpus)
    return found or find_gpus(engine_facts(state).cdi_devices)


def _find_engine() -> "FoundRunner":
    from dimba.runners.registry import find_runner

    return find_runner(AUTO)


def _find_gpus() -> GpuFacts | None:
    return find_gpus() if shutil.which("nvidia-smi") else None
