"""The commands of a store: `probe`, `find` and `bring` print JSON lines for the launcher, `upload` lines of the log."""

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from dimba.common.errors import DimbaError
from dimba.common.output_store import BRING, FIND, PROBE, UPLOAD, WRITER, join
from dimba.supervisor.job_secrets import read_secrets
from dimba.supervisor.rank import die_with_parent

_EVERY = 0.2  # seconds between two lines on progress


def main(argv: list[str]) -> int:
    """Runs one command; returns its exit status."""
    args = _parser().parse_args(argv)
    if args.command == UPLOAD:
        return _upload(args)
    os.environ.update(read_secrets())
    try:
        _COMMANDS[args.command](args)
    except DimbaError as error:
        _say(error=error.as_json())
        return error.exit_status
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m dimba.trainers.store")
    commands = parser.add_subparsers(dest="command", required=True)
    find = commands.add_parser(FIND)
    find.add_argument("address")  # of a run
    find.add_argument("folder", type=Path)
    for name in (PROBE, BRING):
        command = commands.add_parser(name)
        command.add_argument("address")
        command.add_argument("run")
        command.add_argument("writer")
        command.add_argument("--anyway", action="store_true")
        if name == BRING:
            command.add_argument("output", type=Path)
    commands.add_parser(UPLOAD).add_argument("--end", default="", help="how training has ended")
    return parser


def _upload(args: argparse.Namespace) -> int:
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, signal.SIG_IGN)  # the supervisor ends it, once it has sent what is left
    die_with_parent()  # after a kill -9 it must not write beside that of the resumed run
    if args.end:
        os.environ.update(read_secrets())
    from dimba.trainers.store.upload import Places, Upload

    try:
        return Upload(Places.from_environment(), args.end).run()
    except DimbaError as error:  # nothing here speaks the protocol any more
        print(f"warning: {error}", flush=True)
        return error.exit_status


def _probe(args: argparse.Namespace) -> None:
    from dimba.trainers.store.filesystem import open_store
    from dimba.trainers.store.probe import probe
    from dimba.trainers.store.problems import refused

    address = join(args.address, args.run)
    try:
        store = open_store(address)
    except OSError as error:
        raise refused(error, args.address, "opening") from None
    probe(store, args.address, args.writer, anyway=args.anyway)


def _find(args: argparse.Namespace) -> None:
    from dimba.trainers.store.bring import bring_record
    from dimba.trainers.store.filesystem import open_store
    from dimba.trainers.store.problems import unreadable

    try:
        store = open_store(args.address)
        bring_record(store, args.address, args.folder)
        _say(how=store.read_json(WRITER).get("how"))
    except DimbaError:
        raise
    except Exception as error:
        raise unreadable(error, args.address) from None


def _bring(args: argparse.Namespace) -> None:
    from dimba.trainers.store.bring import bring_newer
    from dimba.trainers.store.filesystem import open_store
    from dimba.trainers.store.problems import refused

    _probe(args)  # claims the run
    try:
        store = open_store(join(args.address, args.run))
        name = bring_newer(store, args.output, lambda text: _say(note=text), _Progress().show)
    except DimbaError:
        raise
    except Exception as error:
        raise refused(error, args.address, "reading") from None
    _say(brought=name)


class _Progress:
    """Lines on progress, a few a second."""

    def __init__(self) -> None:
        self._shown = 0.0

    def show(self, what: str, done: int, total: int) -> None:
        """Prints a line, unless one was printed just now."""
        if time.monotonic() - self._shown > _EVERY:
            self._shown = time.monotonic()
            _say(progress=[what, done, total])


def _say(**values: Any) -> None:
    print(json.dumps(values), flush=True)


_COMMANDS = {PROBE: _probe, FIND: _find, BRING: _bring}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
