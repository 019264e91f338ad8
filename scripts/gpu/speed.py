"""How quick a step is on this GPU, and which attention and kernels make it so."""

from scripts.gpu.context import Context, Found
from scripts.gpu.results import ABSENT


def kernels(context: Context) -> Found:
    """The choices of a step, each measured against its alternative; measured on a GPU only."""
    yield context.result("all", ABSENT, "no such measurement yet")
