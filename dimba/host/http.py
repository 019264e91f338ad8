"""One question over HTTP, answered with JSON or with why not; never an exception for what the network does."""

# Not huggingface_hub: 235 ms to the first answer, here 72; 13 packages; it waits 10 s for a slow resolver.

import json
import os
import re
import socket
import threading
from dataclasses import dataclass, field
from typing import Any

TIMEOUT = 5.0  # seconds, for one request
REFUSED = (401, 403, 404)
_MOST = 32 << 20  # bytes of one answer


@dataclass(frozen=True, kw_only=True)
class Answer:
    """`status` is HTTP's, and 0 where nobody answered, or not in JSON; `code` is the Hub's X-Error-Code."""

    status: int = 0
    code: str = ""
    why: str = ""
    body: dict[str, Any] = field(default_factory=dict)


def ask(url: str) -> Answer:
    """Without a token, and once more with HF_TOKEN where that is refused. Takes TIMEOUT seconds, or twice that."""
    answer = _in_time(url, "")
    token = os.environ.get("HF_TOKEN", "").strip()
    # With other characters it is no token, and http.client would show it in its complaint.
    if answer.status in REFUSED and re.fullmatch("[!-~]+", token):
        answer = _in_time(url, token)
    return answer


def _in_time(url: str, token: str) -> Answer:
    # A socket's time-out covers neither the look-up of a name nor a server that sends a byte now and then.
    answers: list[Answer] = []
    thread = threading.Thread(target=lambda: answers.append(_get(url, token)), daemon=True)
    thread.start()
    thread.join(TIMEOUT)
    return answers[0] if answers else Answer(why=f"no answer within {TIMEOUT:g} s")


def _get(url: str, token: str) -> Answer:
    from http.client import HTTPException
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    try:
        request = Request(url, headers={"User-Agent": "dimba"})  # noqa: S310  # HF_ENDPOINT is the user's own
        if token:
            request.add_unredirected_header("Authorization", f"Bearer {token}")  # not to where a redirect leads
        with urlopen(request, timeout=TIMEOUT) as response:  # noqa: S310
            return _parsed(response.read(_MOST))
    except HTTPError as error:
        with error:
            return Answer(status=error.code, code=error.headers.get("X-Error-Code", ""), why=f"HTTP {error.code}")
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, socket.gaierror):
            return Answer(why=f"no network, or no host of that name ({reason.strerror})")
        why = str(reason or error) or type(error).__name__
        return Answer(why=why.splitlines()[0][:200])


def _parsed(data: bytes) -> Answer:
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        body = None
    return Answer(status=200, body=body) if isinstance(body, dict) else Answer(why="what came back is not its JSON")


def mapping(value: object) -> dict[str, Any]:
    """The value if it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def mappings(value: object) -> list[dict[str, Any]]:
    """The objects of a JSON list; none of anything else."""
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def count(value: object) -> int | None:
    """The value if it is a whole number above nothing."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
