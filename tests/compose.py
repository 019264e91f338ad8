"""Builds the Compose image from this repository and runs its services in a project's folder."""

import os
import subprocess
from pathlib import Path

from tests.conftest import QUESTIONS, REPOSITORY, TEST_BASE, write_rows

OWNER = 1234 if os.geteuid() == 0 else os.geteuid()


def build_image() -> str:
    """Build the image with Compose; returns its reference."""
    command = ["docker", "compose", "build", "--quiet", "sft"]
    environment = {**os.environ, "DIMBA_BASE_IMAGE": TEST_BASE, "PWD": str(REPOSITORY)}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return "dimba:compose"


def make_project(folder: Path, checkpoint: Path, spec: str, owner: int = OWNER) -> Path:
    """Create a project with the folders that compose.yaml mounts; it belongs to `owner`."""
    (folder / "checkpoints" / "base").mkdir(parents=True)
    for file in checkpoint.iterdir():
        (folder / "checkpoints" / "base" / file.name).write_bytes(file.read_bytes())
    write_rows(folder / "data" / "rows.jsonl", QUESTIONS)
    (folder / "jobs").mkdir()
    (folder / "jobs" / "x.yaml").write_text(spec, encoding="utf-8")
    give(folder, owner)
    for parent in folder.parents:  # pytest closes its folders to other users
        if parent.stat().st_uid == os.geteuid():
            parent.chmod(parent.stat().st_mode | 0o055)
    return folder


def give(folder: Path, uid: int) -> None:
    for path in [folder, *folder.rglob("*")]:
        os.chown(path, uid, uid if os.geteuid() == 0 else -1)


def compose_run(project: Path, *words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run `docker compose run --rm` in the project's folder."""
    command = ["docker", "compose", "-f", str(REPOSITORY / "compose.yaml"), "--project-directory", str(project)]
    inherited = {name: value for name, value in os.environ.items() if name not in ("UID", "GID")}
    done = subprocess.run(
        [*command, "run", "--rm", *words],
        cwd=project,
        env={**inherited, "PWD": str(project), "HF_HOME": str(project / "cache"), **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    return done
