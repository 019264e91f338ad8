"""A store outside of this machine for the checkpoints of runs: its address, and the names in it. Standard library only.

`<address>/<run id>/` has `checkpoint-N/`, `model/`, `run/` and `writer.json`. A folder with a manifest is complete: the
manifest is written after all other files, and removed before them.
"""

import os
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

MANIFEST = "dimba-manifest.json"
WRITER = "writer.json"
MODEL = "model"
RUN = "run"
STORE_FILE = "store.json"  # in the attempt's folder: what the store has, as the upload writes it
SNAPSHOTS = ".store"  # in the output folder: copies (hard links) that are being sent, and parts that are being brought

MODULE = "dimba.trainers.store"
PROBE, FIND, BRING, UPLOAD = "probe", "find", "bring", "upload"  # its commands
SENT, STOPPED, FAILED = "succeeded", "stopped", "failed"  # how training ended, a line on the upload's stdin
ALL_SENT, NOT_SENT, TAKEN_OVER = 0, 1, 3  # exit statuses of an upload

# Seconds, times `pace()`.
AT_END = 900.0  # that a job waits for its uploads after training
AT_STOP = 300.0  # the same after a request to stop
HEARTBEAT = 60.0  # between two looks at `writer.json`, which is renewed
OUTDATED = 5 * HEARTBEAT  # the age at which the writer counts as gone

# Variables of `container.env` that name a store's login; the same prefixes decide what a probe gets.
LOGINS = ("AWS_", "AZURE_", "GOOGLE_", "GCS_", "HF_")
NATIVE = ("s3", "gs", "gcs", "abfs", "abfss", "file")  # protocols of pyarrow, which needs no further package
PACE = "DIMBA_STORE_PACE"

_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]*)://(.*)", re.DOTALL)
_WITH_USER = ("abfs", "abfss", "sftp", "ssh")  # `container@account`, `user@host`
_LOST = {"memory": "is lost when the job ends", "http": "takes no files", "https": "takes no files"}
_EXAMPLE = "expected an address such as s3://bucket/folder"


def pace() -> float:
    """The factor of all times above; tests shorten them."""
    return float(os.environ.get(PACE) or 1.0)


def is_address(text: str) -> bool:
    """Whether the text is an address rather than a run's id or a path."""
    return bool(_ADDRESS.fullmatch(text))


def protocol_of(address: str) -> str:
    """The part in front of `://`."""
    return address.partition("://")[0]


def address_problem(address: str) -> str:
    """What is wrong with an address, as a predicate or a sentence; empty for a good one."""
    match = _ADDRESS.fullmatch(address)
    if not match:
        return f"`{address}`: {_EXAMPLE}"
    protocol, rest = match.groups()
    if protocol in _LOST:
        return f"`{protocol}://` {_LOST[protocol]}; {_EXAMPLE}"
    host, _, path = rest.partition("/")
    if "?" in rest or "#" in rest or ("@" in host and (protocol not in _WITH_USER or ":" in host.partition("@")[0])):
        return "an address holds no login and no settings; name their variables in `container.env`"
    if protocol == "file":
        return "" if not host and path.strip("/") else f"`{address}`: write an absolute path, file:///folder"
    if not host or ".." in path.split("/"):
        return f"`{address}`: {_EXAMPLE}"
    return ""


def local_folder(address: str) -> Path | None:
    """The folder of a `file://` address; None for another."""
    return Path(os.path.normpath(unquote(urlsplit(address).path))) if protocol_of(address) == "file" else None


def join(address: str, name: str) -> str:
    """The address of something below `address`."""
    return f"{address.rstrip('/')}/{name}"


@dataclass(frozen=True, kw_only=True)
class StoreState:
    """What the store has of a run: names of checkpoints; `pending` are the names that are not there yet."""

    address: str
    newest: str | None = None
    best: str | None = None
    pending: tuple[str, ...] = ()
    problem: str = ""  # of the last try

    def as_json(self) -> dict[str, Any]:
        """The value as JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "StoreState":
        """Reads `as_json`; ignores unknown keys."""
        known = {each.name for each in fields(cls)}
        found = {key: item for key, item in value.items() if key in known}
        return cls(**{**found, "pending": tuple(found.get("pending") or ())})
