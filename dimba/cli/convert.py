"""`dimba convert`: what the model is, its folder on stdout, and what trains it."""

import argparse
import json
import sys

from dimba.cli import render


def convert(args: argparse.Namespace) -> None:
    """Convert a checkpoint, and print where the model is."""
    from dimba.commands.convert import ConvertRequest, convert

    names = ("file", "out", "tokenizer", "runner")
    converted = convert(ConvertRequest(**{name: getattr(args, name) for name in names}), render.reporter())
    if args.json:
        sys.stdout.write(json.dumps(converted.as_json(), indent=2, ensure_ascii=False) + "\n")
        return
    facts = converted.facts
    head = "tied" if facts["tied"] else "of its own"
    size = f"{facts['parameters']:,} parameters, {facts['dtype']}"
    render.note(f"DIMBA, {size}, head {head}, mask token {facts['mask_token_id']:,}")
    if not facts["tokenizer"]:
        render.note("without a tokenizer: copy one into the folder, or convert with `--tokenizer FOLDER`")
    sys.stdout.write(f"{converted.path}\n")
    sys.stdout.flush()
    render.note("`dimba wizard --base-checkpoint` with this folder fine-tunes it")
