"""Loss curves as an SVG file."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

Curve = Sequence[tuple[float, float]]


def write_svg(path: Path, panels: Mapping[str, Mapping[str, Curve]]) -> None:
    """Draw one panel per x axis label, side by side, with its curves by name; equal curves give equal files."""
    figure = Figure(figsize=(5 * len(panels), 3.8), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for panel, (label, curves) in zip(axes, panels.items(), strict=True):
        for name, curve in curves.items():
            panel.plot(*zip(*curve, strict=True), label=name)
        panel.set(xlabel=label, ylabel="loss")
    axes[0].legend()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "dimba"}):  # text stays text, ids stay the same
        figure.savefig(path, format="svg", metadata={"Date": None})
