"""`dimba export`: the proof's numbers as a table, the path on stdout, and what serves the model."""

import argparse
import json
import sys
import textwrap
from typing import TYPE_CHECKING, Any

from dimba.cli import render
from dimba.cli.models import export_request
from dimba.common.units import size

if TYPE_CHECKING:
    from dimba.commands.export.command import Exported

_ROWS = {
    "agreement": ("equal likeliest tokens", "{:.2%}"),
    "kl_mean": ("KL divergence, mean", "{:.2g} nats"),
    "kl_max": ("KL divergence, largest", "{:.2g} nats"),
    "logits_max_difference": ("largest difference of a logit", "{:.2g}"),
    "adapter_share": ("least share of the adapter kept", "{:.2%}"),
}
_EQUAL = "_equal"
_WIDTH, _LABEL = 80, 32


def export(args: argparse.Namespace) -> None:
    """Write exports with their proofs, or compare one that exists."""
    from dimba.commands.export.command import Export, Exported

    done: list[Exported] = []

    def show(exported: Exported) -> None:
        done.append(exported)
        if not args.json:
            _show(exported)

    Export(export_request(args), render.reporter()).run(show)
    if args.json:
        values = [each.as_json() for each in done]
        sys.stdout.write(json.dumps(values[0] if len(values) == 1 else values, indent=2, ensure_ascii=False) + "\n")


def _show(exported: "Exported") -> None:
    console, record = render.errors_console(), exported.record
    for name, value in _lines(record):
        for number, part in enumerate(textwrap.wrap(value, _WIDTH - _LABEL) or [""]):
            console.print(f"{'' if number else name:<{_LABEL}}{part}", markup=False, highlight=False)
    sys.stdout.write(f"{exported.path}\n")
    sys.stdout.flush()
    for line in served_by(exported):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if exported.url:
        console.print(f"uploaded: {exported.url}", markup=False, soft_wrap=True)


def served_by(exported: "Exported") -> list[str]:
    """What serves an export, one line a server; none for one that was only compared."""
    from dimba.commands.serving_lines import GGUF, MERGED, Served, serving_lines

    files = exported.record.get("files") or {}
    gguf = next((name for name in files if name.endswith(".gguf")), None)
    if exported.checked or not files:
        return []
    served = Served(
        kind=GGUF if gguf else MERGED,
        path=exported.path / gguf if gguf else exported.path,
        name=exported.name,
        family=exported.family,
        weight_bytes=sum(each["size"] for each in files.values()),
        modelfile="Modelfile" in files,
    )
    return serving_lines(served)


def _lines(record: dict[str, Any]) -> list[tuple[str, str]]:
    proof = record.get("proof") or {}
    total = sum(each["size"] for each in (record.get("files") or {}).values())
    lines = [(str(record.get("kind")), f"{record.get('dtype') or record.get('type')}, {size(total)}")] if total else []
    if "rows" in proof:
        lines.append(("compared", f"{proof['rows']} rows, {proof['positions']:,} positions: {proof['data']}"))
    lines += [(label, form.format(proof[name])) for name, (label, form) in _ROWS.items() if name in proof]
    if "quantized_base" in proof:
        other = proof["quantized_base"]
        lines.append(("against the 4-bit base", f"{other['agreement']:.2%}, KL {other['kl_mean']:.2g} nats"))
    if memory := proof.get("in_memory"):
        words = f"{memory['agreement']:.2%} of {memory['positions']} tokens"
        lines.append(("as it was when training ended", words))
    equal = [name.removesuffix(_EQUAL).replace("_", " ") for name in proof if name.endswith(_EQUAL) and proof[name]]
    return [*lines, ("equal", ", ".join(each for each in equal if each != "template source"))]
