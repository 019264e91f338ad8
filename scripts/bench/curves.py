"""Loss curves as an SVG file, without a library for it."""

from collections.abc import Mapping, Sequence
from pathlib import Path

WIDTH, HEIGHT, EDGE = 420, 300, 46
COLOURS = ("#d62728", "#1f77b4", "#2ca02c", "#ff7f0e", "#9467bd", "#8c564b")
Curve = Sequence[tuple[float, float]]


def write_svg(path: Path, panels: Mapping[str, Mapping[str, Curve]]) -> None:
    """One panel beside the other: what its x axis says, and its curves by name."""
    width = (WIDTH + EDGE) * len(panels) + EDGE
    drawn = [_panel(number, title, curves) for number, (title, curves) in enumerate(panels.items())]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{HEIGHT + 2 * EDGE}" font-size="12"'
    path.write_text(f'{head} font-family="sans-serif">\n{"".join(drawn)}</svg>\n', encoding="utf-8")


def _panel(number: int, title: str, curves: Mapping[str, Curve]) -> str:
    points = [point for curve in curves.values() for point in curve]
    right, low, high = max(x for x, _ in points), min(y for _, y in points), max(y for _, y in points)
    left = EDGE + number * (WIDTH + EDGE)

    def place(x: float, y: float) -> str:
        return f"{left + WIDTH * x / (right or 1):.1f},{EDGE + HEIGHT * (high - y) / ((high - low) or 1):.1f}"

    parts = [f'<rect x="{left}" y="{EDGE}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#999"/>']
    parts += [f'<text x="{left}" y="{EDGE + HEIGHT + 30}">loss over {title}, 0 to {right:.4g}</text>']
    parts += [
        f'<text x="{left - 38}" y="{y}">{value:.2f}</text>' for y, value in ((EDGE + 10, high), (EDGE + HEIGHT, low))
    ]
    for at, (name, curve) in enumerate(curves.items()):
        colour = COLOURS[at % len(COLOURS)]
        parts += [f'<polyline fill="none" stroke="{colour}" points="{" ".join(place(*each) for each in curve)}"/>']
        parts += [f'<text x="{left + WIDTH - 150}" y="{EDGE + 20 + 16 * at}" fill="{colour}">{name}</text>']
    return "\n".join(parts) + "\n"
