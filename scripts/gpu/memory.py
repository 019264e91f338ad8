"""Whether the memory estimate holds: what runs on a GPU measure, against what `dimba plan` estimates."""

from scripts.gpu.context import Context, Found
from scripts.gpu.results import ABSENT


def estimate(context: Context) -> Found:
    """Combinations of model, method and rows; measured on a GPU only."""
    yield context.result("all", ABSENT, "no such measurement yet")
