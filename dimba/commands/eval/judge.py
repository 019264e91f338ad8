"""A judge behind an OpenAI-compatible address, which is asked about each pair of answers in both orders."""

import json
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from dimba.common.errors import BadInput, HostCannot, first_line

_PATH = "/chat/completions"
_AT_ONCE = 4  # requests
_TRIES, _WAIT = 3, 1.0  # seconds before the second try, twice as many before the third
_MOST_BYTES = 4 << 20  # of an answer
_NONSENSE = 0.2  # share of the pairs without a verdict beyond which the judge is refused
_FEW = 10  # pairs after which a judge that has given no verdict is not asked any more
_HINT = "check --judge and --judge-model: the address must answer OpenAI's `/v1/chat/completions`"
_TASK = (
    "You compare two answers to the same request. Judge which one is more correct and more helpful; length and "
    "order do not matter. Reply with one word: A if answer A is better, B if answer B is better, TIE if neither is."
)
_REASONING = re.compile(r"<think>.*?</think>", re.DOTALL | re.IGNORECASE)
_VERDICT = re.compile(
    r"\W*(?:(?:my |the |final )*(?:verdict|answer|winner|choice|better answer)(?: is)?\W*)?(A|B|TIE)\W*", re.IGNORECASE
)
_TRIAL = ("What is 2 + 2?", "2 + 2 is 4.", "Bananas are yellow.")
_VALUES = {"A": 1, "B": -1, "TIE": 0}


class Pair(NamedTuple):
    """A conversation that ends with a question, and two answers to it."""

    messages: Sequence[Mapping[str, Any]]
    one: str
    other: str
    reference: str | None = None


@dataclass(frozen=True, kw_only=True)
class Verdicts:
    """1, 0 or -1 per pair, for the first answer, a tie and the second; None where the judge gave no verdict.

    A judge that prefers one place, and so contradicts itself in the other order, has found a tie (`contradictions`).
    """

    values: tuple[int | None, ...]
    contradictions: int = 0

    @property
    def nonsense(self) -> int:
        """Pairs without a verdict."""
        return sum(each is None for each in self.values)


@dataclass(frozen=True, kw_only=True)
class Judge:
    """The address of an OpenAI-compatible server, the model that judges there, and the variable with its key."""

    url: str
    model: str
    key_env: str | None = None
    timeout: float = 60.0  # seconds, for one request
    wait: float = field(default=_WAIT, repr=False)

    def require_usable(self) -> None:
        """Raises BadInput unless the judge answers a trial with a verdict."""
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise BadInput("--judge is not an address such as http://127.0.0.1:8000/v1", _HINT)
        if self.key_env and not os.environ.get(self.key_env, "").strip():
            problem = f"the environment has no {self.key_env}, in which the judge's key should be"
            raise BadInput(problem, f"`export {self.key_env}=…`, or leave out --judge-key-env")
        question, right, wrong = _TRIAL
        try:
            text = self._ask(Pair([{"role": "user", "content": question}], right, wrong))
        except HostCannot as error:
            raise BadInput(error.cause, _HINT) from None
        if verdict_in(text) is None:
            problem = f"the judge answers a trial with {text.strip()[:60]!r} instead of A, B or TIE"
            raise BadInput(problem, "give a model that follows instructions with --judge-model")

    def compare(self, pairs: Sequence[Pair], progress: Callable[[int], None]) -> Verdicts:
        """The verdicts on pairs; raises BadInput if too many are nonsense, HostCannot if the judge does not answer."""
        values: list[int | None] = []
        contradictions = 0
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            for start in range(0, len(pairs), _FEW):
                for both in pool.map(self._both_orders, pairs[start : start + _FEW]):
                    values.append(_agreed(*both))
                    contradictions += both in ((1, -1), (-1, 1))
                progress(len(values))
                if len(values) >= _FEW and not any(each is not None for each in values):
                    break
        self._require_sense(values)
        return Verdicts(values=tuple(values), contradictions=contradictions)

    def _require_sense(self, values: Sequence[int | None]) -> None:
        nonsense = sum(each is None for each in values)
        if nonsense > _NONSENSE * len(values):
            problem = f"the judge gave no verdict on {nonsense:,} of {len(values):,} pairs"
            raise BadInput(problem, "give a model that follows instructions with --judge-model")

    def _both_orders(self, pair: Pair) -> tuple[int | None, int | None]:
        """The verdicts for the first answer in both orders."""
        if pair.one.strip() == pair.other.strip():
            return 0, 0
        there = verdict_in(self._ask(pair))
        back = verdict_in(self._ask(pair._replace(one=pair.other, other=pair.one)))
        return there, None if back is None else -back

    def _ask(self, pair: Pair) -> str:
        body = {
            "model": self.model,
            "messages": [{"role": "system", "content": _TASK}, {"role": "user", "content": _question(pair)}],
            "temperature": 0,
        }
        wait = self.wait
        for attempt in range(1, _TRIES + 1):
            try:
                return _text_of(self._post(json.dumps(body).encode()))
            except _Transient as error:
                if attempt == _TRIES:
                    raise HostCannot(f"the judge does not answer: {error}", _HINT) from None
                time.sleep(wait)
                wait *= 2
        raise AssertionError("the last try returns or raises")

    def _post(self, body: bytes) -> bytes:
        from http.client import HTTPException
        from urllib.error import HTTPError, URLError
        from urllib.request import Request, urlopen

        url = self.url.rstrip("/").removesuffix(_PATH) + _PATH
        request = Request(url, body, {"Content-Type": "application/json", "User-Agent": "dimba"})  # noqa: S310
        if key := os.environ.get(self.key_env or "", "").strip():
            request.add_unredirected_header("Authorization", f"Bearer {key}")  # a redirect must not receive it
        try:
            with urlopen(request, timeout=self.timeout) as response:  # noqa: S310  # checked in `require_usable`
                found: bytes = response.read(_MOST_BYTES)
                return found
        except HTTPError as error:
            error.close()
            if error.code == 429 or error.code >= 500:
                raise _Transient(f"HTTP {error.code}") from None
            raise HostCannot(f"the judge refuses a request: HTTP {error.code}", _HINT) from None
        except (URLError, HTTPException, OSError) as error:
            raise _Transient(first_line(getattr(error, "reason", error))) from None


def _agreed(there: int | None, back: int | None) -> int | None:
    if there is None or back is None:
        return None
    return there if there == back else 0


class _Transient(Exception):  # it never leaves this module
    """What may go well another time."""


def _text_of(body: bytes) -> str:
    try:
        return str(json.loads(body)["choices"][0]["message"]["content"] or "")
    except (ValueError, KeyError, IndexError, TypeError):
        raise HostCannot("the judge's answer is not that of a chat completion", _HINT) from None


def _question(pair: Pair) -> str:
    request = "\n\n".join(f"[{each['role']}]\n{each.get('content') or ''}" for each in pair.messages)
    reference = f"\n\n# A known right answer\n{pair.reference}" if pair.reference else ""
    answers = f"# Answer A\n{pair.one}\n\n# Answer B\n{pair.other}"
    return f"# Request\n{request}{reference}\n\n{answers}\n\n# Better: A, B or TIE?"


def verdict_in(text: str) -> int | None:
    """1 for A, -1 for B, 0 for a tie, by the whole answer or its last line; None for anything else."""
    lines = [line for line in _REASONING.sub("", text).splitlines() if line.strip()]
    match = _VERDICT.fullmatch(lines[-1].strip()) if lines else None
    return _VALUES[match[1].upper()] if match else None
