"""export.json: what was exported, from what, and the numbers of its proof."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dimba.common.contract import EXPORT_FILE

if TYPE_CHECKING:
    from dimba.trainers.export.agreement import Progress
    from dimba.trainers.export.proof import Proof

_CHUNK = 1 << 22


def listed_files(folder: Path, progress: Progress) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of every file, by its path in the folder."""
    files = sorted(each for each in folder.rglob("*") if each.is_file() and each.name != EXPORT_FILE)
    total, done = sum(each.stat().st_size for each in files), 0
    found = {}
    for file in files:
        digest = hashlib.sha256()
        with file.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
                done += len(chunk)
                progress("hashing", done, total)
        found[str(file.relative_to(folder))] = {"size": file.stat().st_size, "sha256": digest.hexdigest()}
    return found


def export_record(kind: str, type_: str, proof: Proof, about: Mapping[str, Any]) -> dict[str, Any]:
    """The content of export.json, without the files."""
    base, run = about.get("base") or {}, about.get("run") or {}
    return {
        "kind": kind,
        "dtype" if kind == "merged" else "type": type_,
        "base": base.get("name"),
        "base_hash": base.get("hash"),
        "run": run.get("id"),
        "revision": run.get("revision"),
        "dimba": about.get("dimba"),
        "proof": proof.as_json(),
        "bounds": proof.bounds,
        "notes": proof.notes,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def write_record(folder: Path, record: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Write export.json with the folder's files; returns its content."""
    content = {**record, "files": listed_files(folder, progress)}
    (folder / EXPORT_FILE).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return content


def changed_file(folder: Path, progress: Progress) -> str:
    """The first file that is not as export.json lists it, in words; empty if all are, or nothing is listed."""
    try:
        listed = json.loads((folder / EXPORT_FILE).read_text(encoding="utf-8"))["files"]
        expected = {str(name): str(each["sha256"]) for name, each in listed.items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return ""
    found = listed_files(folder, progress)
    for name, digest in expected.items():
        if name not in found:
            return f"{name} is gone"
        if found[name]["sha256"] != digest:
            return f"{name} has changed since the export"
    return ""
