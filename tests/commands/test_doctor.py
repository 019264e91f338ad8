"""`dimba doctor` on machines that lack something; tests/engine has the healthy machine."""

import json
import os
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from dimba.commands.doctor.check import Check, value_or_check
from dimba.commands.doctor.clock import check_clock, compare_clocks
from dimba.commands.doctor.engine import check_engine, check_kind
from dimba.commands.doctor.gpus import (
    ContainerGpus,
    base_cuda,
    check_container_gpus,
    compare_driver,
    parse_nvidia_smi,
    wheels_cuda,
)
from dimba.commands.doctor.machine import Machine
from dimba.commands.doctor.network import check_hub
from dimba.commands.doctor.storage import check_cache, check_shm, disk
from dimba.common.errors import HostCannot
from dimba.host.facts import EngineFacts, Gpu, GpuFacts
from dimba.runners.docker.details import EngineDetails, podman_version
from tests.conftest import NO_ENGINE, REPOSITORY, Dimba
from tests.host.test_host import put_on_path
from tests.hub import scripted

TWO_GPUS = GpuFacts(gpus=(Gpu(index=0), Gpu(index=1)), source="CDI")
KNOWN_TO_CDI = frozenset({"nvidia.com/gpu=0", "nvidia.com/gpu=1"})


def machine(folder: Path, **changes: Any) -> Machine:
    return replace(
        Machine(folder=folder, engine=EngineFacts(reachable=True, address="unix:///x", version="28")), **changes
    )


def diagnosis(dimba: Dimba, folder: Path, **environment: str) -> tuple[int, dict[str, dict[str, str]]]:
    done = dimba("doctor", "--json", cwd=folder, **environment)
    checks = json.loads(done.stdout)
    assert all(list(check) == ["name", "status", "detail", "fix"] for check in checks)
    lacking = [check for check in checks if check["status"] != "ok" and "`" not in check["fix"]]
    assert not lacking, "every problem comes with a command that fixes it"
    return done.returncode, {check["name"]: check for check in checks}


@contextmanager
def scripted_engine(folder: Path, answers: dict[str, Any]) -> Iterator[dict[str, str]]:
    """Serve these answers by path on a socket of its own; yields the environment that selects it as the engine."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.rpartition("/")[2]
            data = json.dumps(answers.get(name, {"message": "No such image"})).encode()
            self.send_response(200 if name in answers else 404)
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(data)

        def address_string(self) -> str:
            return "unix"

        def log_message(self, format: str, *args: object) -> None:
            pass

    path = folder / "engine.sock"
    with socketserver.ThreadingUnixStreamServer(str(path), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield {"DOCKER_HOST": f"unix://{path}"}
        server.shutdown()


def podman(version: str) -> dict[str, Any]:
    return {
        "version": {"ApiVersion": "1.41", "Components": [{"Name": "Podman Engine", "Version": version}]},
        "info": {"ServerVersion": version, "SecurityOptions": ["name=rootless"], "SystemTime": "2001-01-01T00:00:00Z"},
    }


def test_without_an_engine_the_other_checks_still_run(tmp_path: Path, dimba: Dimba):
    status, checks = diagnosis(dimba, tmp_path, **NO_ENGINE)
    assert status == 4 and checks["engine"]["status"] == "error"
    assert "DOCKER_HOST" in checks["engine"]["detail"] and "unset DOCKER_HOST" in checks["engine"]["fix"]
    assert {"GPUs", "jobs as processes", "shared memory", "disk, cache", "disk, checkpoints", "clock", "Hub"} <= set(
        checks
    )
    assert checks["files from a container"]["detail"] == "skipped: no engine of this machine answers"


def test_podman_a_rootless_engine_and_a_wrong_engine_clock_are_reported(tmp_path: Path, dimba: Dimba):
    with scripted_engine(tmp_path, podman("4.9.3")) as environment:
        status, checks = diagnosis(dimba, tmp_path, **environment)
    assert status == 0
    assert "Podman 4.9.3 at unix://" in checks["engine"]["detail"] and ", rootless" in checks["engine"]["detail"]
    assert checks["Podman"]["status"] == "warning" and "ignores requests for GPUs" in checks["Podman"]["detail"]
    assert "dnf upgrade podman" in checks["Podman"]["fix"]
    assert checks["rootless"]["status"] == "ok" and checks["base image"]["status"] == "warning"
    assert "the engine's clock is" in checks["clock"]["detail"] and "behind" in checks["clock"]["detail"]


@pytest.mark.proof
def test_an_engine_that_never_answers_is_an_error(tmp_path: Path, dimba: Dimba):
    class Silent(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            time.sleep(60)

    path = tmp_path / "engine.sock"
    with socketserver.ThreadingUnixStreamServer(str(path), Silent) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        began = time.monotonic()
        status, checks = diagnosis(dimba, tmp_path, DOCKER_HOST=f"unix://{path}")
        assert status == 4 and checks["engine"]["status"] == "error" and time.monotonic() - began < 30
        server.shutdown()


def test_an_engine_that_answers_nonsense_is_an_error(tmp_path: Path, dimba: Dimba):
    with scripted_engine(tmp_path, {"version": {"ApiVersion": "1.41"}, "info": ["what"]}) as environment:
        status, checks = diagnosis(dimba, tmp_path, **environment)
    assert status == 4 and checks["engine"]["status"] == "error"


def test_the_engine_of_another_machine_is_an_error(tmp_path: Path, dimba: Dimba):
    status, checks = diagnosis(dimba, tmp_path, DOCKER_HOST="tcp://192.0.2.1:2375")
    assert status == 4 and "is another machine" in checks["engine"]["detail"]


def test_the_context_is_named_and_a_missing_one_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    (known,) = check_engine(machine(tmp_path))
    assert known.status == "ok" and "(context default)" in known.detail
    monkeypatch.setenv("DOCKER_CONTEXT", "no-such-context")
    (unknown,) = check_engine(machine(tmp_path))
    assert unknown.status == "warning" and "the context `no-such-context` does not exist" in unknown.detail


def test_a_broken_driver_is_an_error(tmp_path: Path, dimba: Dimba, monkeypatch: pytest.MonkeyPatch):
    put_on_path(tmp_path, monkeypatch, "#!/bin/sh\necho 'NVIDIA-SMI has failed' >&2\nexit 9\n")
    with scripted_engine(tmp_path, podman("5.6.0")) as environment:
        status, checks = diagnosis(dimba, tmp_path, **environment)
    assert status == 3 and checks["GPUs"]["status"] == "error" and "modprobe nvidia" in checks["GPUs"]["fix"]


def test_podman_passes_gpus_from_version_5_4_on_and_only_by_cdi():
    assert podman_version({"Components": [{"Name": "Engine", "Version": "28"}]}) == ""
    folder = Path.cwd()
    facts = EngineFacts(reachable=True, cdi_devices=KNOWN_TO_CDI)
    new = machine(folder, engine=facts, details=EngineDetails(podman="5.4.0-rc1"), gpu=TWO_GPUS)
    assert [check.status for check in check_kind(new)] == ["ok"]
    assert [check.status for check in check_kind(replace(new, details=EngineDetails(podman="5.3.9")))] == ["warning"]
    (without,) = check_kind(replace(new, engine=EngineFacts(reachable=True)))
    assert "nvidia-ctk cdi generate" in without.fix


def test_a_rootless_engine_passes_gpus_only_by_cdi_or_without_cgroups():
    rootless = machine(Path.cwd(), engine=EngineFacts(reachable=True, rootless=True), gpu=TWO_GPUS)
    (check,) = check_kind(rootless)
    assert check.status == "warning" and "no-cgroups" in check.fix


def test_gpus_missing_in_a_container_are_an_error_that_names_how_they_were_passed():
    there = machine(Path.cwd(), engine=EngineFacts(reachable=True, cdi_devices=KNOWN_TO_CDI), gpu=TWO_GPUS)
    (by_cdi,) = check_container_gpus(there, ContainerGpus(count=1))
    assert by_cdi.status == "error" and "1 of 2 seen, passed by CDI" in by_cdi.detail and "nvidia-ctk" in by_cdi.fix
    (by_driver,) = check_container_gpus(replace(there, engine=EngineFacts(reachable=True)), ContainerGpus())
    assert "nvidia-container-toolkit" in by_driver.fix
    failed = Check(name="GPUs in a container", status="error", detail="x: the engine has no GPU support (…)", fix="?")
    assert "nvidia-container-toolkit" in check_container_gpus(there, failed)[0].fix


SMI = """\
GPU 0: NVIDIA A100 (UUID: GPU-0)
GPU 1: NVIDIA A100 (UUID: GPU-1)
570.86.15
570.86.15
| NVIDIA-SMI 570.86.15              Driver Version: 570.86.15      CUDA Version: 12.8     |
"""


def test_gpus_driver_and_cuda_are_parsed_from_nvidia_smi():
    assert parse_nvidia_smi(SMI) == ContainerGpus(count=2, driver="570.86.15", cuda=(12, 8))
    assert parse_nvidia_smi("sh: nvidia-smi: not found\n") == ContainerGpus()


@pytest.mark.parametrize(
    ("driver", "runs", "needed", "status"),
    [
        ("580.65.06", (13, 0), (13, 0), "ok"),
        ("580.65.05", (), (13, 0), "error"),
        ("570.86.15", (12, 8), (13, 0), "error"),
        ("525.60.13", (), (12, 8), "ok"),
        ("525.60.11", (), (12, 8), "error"),
        ("590.1", (), (13, 1), "ok"),
        ("", (), (13, 0), "warning"),
        ("590.1", (), (99, 0), "warning"),
        ("590.1", (), (), "warning"),
    ],
)
def test_the_driver_is_compared_with_the_images_cuda(driver: str, runs: Any, needed: Any, status: str):
    check = compare_driver(driver, runs, needed, has_gpus=True)
    assert check.status == status and (status == "ok" or "`" in check.fix)
    assert compare_driver(driver, runs, needed, has_gpus=False).status == "ok"


def test_the_images_cuda_is_read_from_its_variables_its_tag_and_the_pins():
    assert base_cuda("x", {"CUDA_VERSION": "13.0.2", "NVIDIA_REQUIRE_CUDA": "cuda>=12.4"})[:2] == (13, 0)
    assert base_cuda("x", {"NVIDIA_REQUIRE_CUDA": "cuda>=12.4 brand=tesla,driver>=470"}) == (12, 4)
    assert base_cuda("nvidia/cuda:12.8.1-base-ubuntu24.04", {}) == (12, 8)
    assert base_cuda("pytorch/pytorch:2.5-cuda12.4-cudnn9", {}) == (12, 4)
    assert base_cuda("debian:12", {}) == ()
    assert wheels_cuda(REPOSITORY)[0] >= 13 and wheels_cuda(Path("/nonexistent")) == ()


def test_a_probe_that_fails_or_times_out_is_reported_as_a_check():
    assert value_or_check("x", 5, lambda: 7) == 7
    broken = value_or_check("x", 5, lambda: 1 // 0)
    assert isinstance(broken, Check) and broken.status == "warning" and "ZeroDivisionError" in broken.detail

    def refuse() -> None:
        raise HostCannot("cause", "remedy")

    assert value_or_check("x", 5, refuse) == Check(name="x", status="error", detail="cause", fix="remedy")
    late = value_or_check("x", 0.05, lambda: time.sleep(1), timeout_fix="`do`")
    assert late == Check(name="x", status="error", detail="no answer within 0.05 s", fix="`do`")


def test_clocks_that_differ_by_more_than_a_minute_are_a_warning(tmp_path: Path):
    assert compare_clocks([("a", 59), ("b", -59)]).status == "ok"
    off = compare_clocks([("the engine's clock", -61)])
    assert off.status == "warning" and "the engine's clock is 61 s behind" in off.detail and "timedatectl" in off.fix
    assert check_clock(machine(tmp_path))[0].status == "ok"
    (tmp_path / "data.jsonl").touch()
    os.utime(tmp_path / "data.jsonl", (time.time() + 3600,) * 2)
    (future,) = check_clock(machine(tmp_path))
    assert future.status == "warning" and "data.jsonl is 3,6" in future.detail


def test_missing_shared_memory_is_a_warning(tmp_path: Path):
    (missing,) = check_shm(machine(tmp_path), tmp_path / "none")
    assert missing.status == "warning" and "mount -t tmpfs" in missing.fix
    assert check_shm(machine(tmp_path), tmp_path)[0].status in ("ok", "warning")


def test_a_nearly_full_disk_is_reported_with_a_command_that_frees_space(tmp_path: Path):
    assert disk("disk", tmp_path, 0, "`x`").fix == ""
    little = disk("disk", tmp_path, 1 << 30, "`x`")
    assert little.status in ("warning", "error") and little.fix == "`x`" and "jobs soon use" in little.detail
    assert disk("disk", Path("/proc"), 1, "`x`").status == "error"


def test_a_cache_that_the_jobs_user_may_not_write_in_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HF_HOME", "/proc/cache")
    (check,) = check_cache(machine(tmp_path))
    assert check.status == "error" and "install -d" in check.fix and "/proc/cache" in check.fix


def test_the_hub_is_contacted_at_hf_endpoint_and_not_at_all_when_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert "HF_HUB_OFFLINE" in check_hub(machine(tmp_path))[0].detail
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    with scripted({"/api/models/openai-community/gpt2": (200, {}, {"id": "x"})}) as (address, _asked):
        monkeypatch.setenv("HF_ENDPOINT", address)
        (check,) = check_hub(machine(tmp_path))
        assert check.status == "ok" and address in check.detail
    (gone,) = check_hub(machine(tmp_path))
    assert gone.status == "warning" and "curl -I" in gone.fix
