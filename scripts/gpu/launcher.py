"""What a GPU changes for the launcher: the driver, `nvidia-smi`, the engine, leases."""

from scripts.gpu.context import Context, Found
from scripts.gpu.results import ABSENT


def engine(context: Context) -> Found:
    """The host's probes, and a job through the engine."""
    yield context.result("all", ABSENT, "no such measurement yet")
