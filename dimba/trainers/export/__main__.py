"""An export where the trainer runs: `python -P -m dimba.trainers.export JSON`, the request (or `-`: on stdin).

Prints JSON lines: `{"progress": [what, done, all]}`, `{"note": …}`, then `{"result": {…}}` or `{"error": {…}}`.
"""

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dimba.common.errors import DimbaError

_SECONDS = 0.5  # between lines about the same step


class _Progress:
    """Prints what is being done: every new step at once, the same one from time to time."""

    def __init__(self) -> None:
        self._what, self._last = "", 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        now = time.monotonic()
        if what != self._what or now - self._last >= _SECONDS:
            self._what, self._last = what, now
            _print_json(progress=[what, done, total])


def main(argv: list[str]) -> int:
    """Does what the request asks; returns the exit status."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # read when transformers is imported
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    request = json.loads(sys.stdin.readline() if argv[0] == "-" else argv[0])
    try:
        _print_json(result=_DO[request["do"]](request))
    except DimbaError as error:
        _print_json(error=error.as_json())
        return error.exit_status
    return 0


def _export(request: Mapping[str, Any]) -> dict[str, Any]:
    from dimba.trainers.export.request import Request
    from dimba.trainers.export.run import run
    from dimba.trainers.models.saving import quiet

    quiet()
    return run(Request.from_json(request), _Progress(), lambda text: _print_json(note=text))


def _rights(request: Mapping[str, Any]) -> dict[str, Any]:
    from dimba.trainers.export.hub import Repository, check_rights

    return {"lines": check_rights(Repository(request["name"], request.get("public", False)))}


def _upload(request: Mapping[str, Any]) -> dict[str, Any]:
    from dimba.trainers.export.hub import Repository, upload

    repository = Repository(request["name"], request.get("public", False))
    return {"url": upload(Path(request["folder"]), repository, request["message"], _Progress())}


_DO = {"export": _export, "rights": _rights, "upload": _upload}


def _print_json(**value: Any) -> None:
    print(json.dumps(value), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
