"""Fields of a run's record, and what else is written when its job starts."""

import json
import secrets
from pathlib import Path
from typing import Any

from dimba.common import contract
from dimba.common.output_store import AT_STOP
from dimba.common.processes import own_boot, own_host, own_pids, own_process
from dimba.host.facts import ImageFacts
from dimba.plan.model import LaunchPlan
from dimba.records import RunFolder, RunRecord
from dimba.records.store import write_atomically
from dimba.runners.protocol import Runner
from dimba.spec import JobSpec

_LONGEST_DIFF = 1 << 16  # characters


def launched_here() -> dict[str, Any]:
    """The fields of a run that this process is responsible for from now on."""
    ended = ("exit_reason", "exit_code", "ended", "waits_for", "learned", "learning")
    return dict.fromkeys(ended) | {
        "launcher": own_process(),
        "host": own_host(),
        "boot": own_boot(),
        "pids": own_pids(),
    }


def new_store(spec: JobSpec) -> dict[str, Any] | None:
    """The record's part on the store of a run that this machine writes; None without a store."""
    if spec.output_store is None:
        return None
    return {"address": spec.output_store, "writer": secrets.token_hex(8), "newest": None, "best": None, "pending": []}


def attempt_environment(record: RunRecord) -> dict[str, str]:
    """Variables of an attempt that its record decides."""
    anyway = {contract.ENV_ANYWAY: "1"} if record.departures else {}
    return anyway | ({contract.ENV_STORE_WRITER: str(record.store["writer"])} if record.store else {})


def container_of(runner: Runner, job: str) -> str | None:
    """The container id of a job that is a container."""
    return job if runner.capabilities.uses_engine else None


def patience(record: RunRecord) -> float:
    """Seconds after which a job that was asked to stop is killed: twice its grace period, a margin, and its uploads."""
    return 2 * record.stop_grace + contract.STOP_MARGIN + (AT_STOP if record.store else 0)


def recorded_plan(plan: LaunchPlan) -> dict[str, Any]:
    """The fields of a plan whose job starts."""
    image = _recorded_image(plan.image) if plan.image else {}
    batch = {"stop_grace": plan.stop_grace, "effective_batch": plan.steps.effective_batch}
    return {**batch, **image, **recorded_gpus(plan)}


def _recorded_image(image: ImageFacts) -> dict[str, Any]:
    versions = {"packages": dict(image.versions)} if image.versions else {}
    return {"image": image.reference, "image_digest": image.id, "image_pins": image.pins, **versions}


def recorded_gpus(plan: LaunchPlan) -> dict[str, Any]:
    """The fields of a plan's GPUs."""
    return {
        "driver": next((gpu.driver for gpu in plan.gpus), None),
        "gpus": plan.gpu_ids,
        "gpu_names": tuple(gpu.name or "unnamed" for gpu in plan.gpus),
    }


def cut_diff(made_of: dict[str, Any], folder: RunFolder) -> dict[str, Any]:
    """`made_of` with a long diff moved to a file of its own, as every command reads the record."""
    diff = made_of.get("git_diff") or ""
    if len(diff) <= _LONGEST_DIFF:
        return made_of
    folder.write_bytes(contract.DIFF_FILE, diff.encode())
    cut = f"{diff[:_LONGEST_DIFF]}\n… {len(diff) - _LONGEST_DIFF:,} more characters in {contract.DIFF_FILE}"
    return {**made_of, "git_diff": cut}


def claim_output(plan: LaunchPlan, run: Path) -> None:
    """Write dimba.json: the run that the output folder belongs to."""
    note = {
        "run_id": run.name,
        "run": str(run),
        "name": plan.name,
        "base_checkpoint": plan.checkpoint.reference,
        "argv": plan.argv,
    }
    data = json.dumps(note, indent=2).encode()
    write_atomically(plan.output_dir / contract.OUTPUT_FILE, data, plan.uid, plan.gid)
