"""`dimba report`: writes the file and prints its path."""

import argparse
import json
import sys
from pathlib import Path


def report(args: argparse.Namespace) -> None:
    """Write one HTML file about the runs, and open it if asked to."""
    from dimba.cli import render
    from dimba.commands.report import write_report, write_sweep_report
    from dimba.host.probe import runs_folder
    from dimba.records import find_run
    from dimba.records.sweep import find_sweep

    folder = Path.cwd()
    runs = runs_folder(folder)
    sweep = find_sweep(runs, args.runs[0]) if len(args.runs) == 1 else None
    written = write_sweep_report(sweep) if sweep else write_report([find_run(runs, each) for each in args.runs], folder)
    text = json.dumps(written.as_json(), indent=2, ensure_ascii=False) if args.json else str(written.path)
    sys.stdout.write(text + "\n")
    if args.open and not _opens(written.path):
        render.note(f"no browser answers on this machine: open {written.path} in one")


def _opens(path: Path) -> bool:
    import webbrowser

    try:
        return webbrowser.open(path.absolute().as_uri())
    except webbrowser.Error:
        return False
