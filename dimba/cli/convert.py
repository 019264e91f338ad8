"""`dimba convert`: what the model is, its folder on stdout, and what trains it."""

import argparse
import json
import shlex
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
    sys.stdout.write(f"{converted.path}\n")
    sys.stdout.flush()
    if facts["tokenizer"]:
        render.note(f"`dimba wizard --base-checkpoint {shlex.quote(str(converted.path))}` fine-tunes it")
    else:
        render.note("it has no tokenizer yet: convert into a new folder with `--tokenizer FOLDER` to train it")
