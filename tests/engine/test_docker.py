"""Jobs on the real engine: the container's settings, the files on the host, and the message of each failure."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from docker.errors import APIError
from docker.types import DeviceRequest

from dimba.common.errors import EngineFailed, HostCannot
from dimba.host.build_context import gather_context, image_key
from dimba.host.facts import ImageFacts
from dimba.plan.build import make_plan
from dimba.runners.docker.engine import Engine
from dimba.runners.docker.image import look_at_image
from dimba.runners.docker.runner import DockerRunner
from dimba.runners.docker.translate import translated
from dimba.runners.protocol import OneShot
from dimba.spec import Container, JobSpec, parse_spec
from tests.conftest import REPOSITORY, TEST_BASE, Dimba
from tests.plan.test_plan import FACTS, SPARSE
from tests.weights import largest_difference, saved_rank_count

SPEC = parse_spec(SPARSE.encode(), source="x").spec
UNKNOWN_UID = 1234  # no user has it


def append(job: Path, text: str) -> None:
    with (job / "job.yaml").open("a", encoding="utf-8") as file:
        file.write(text)


def edit(job: Path, old: str, new: str, name: str = "job.yaml") -> None:
    text = (job / name).read_text(encoding="utf-8")
    assert old in text
    (job / name).write_text(text.replace(old, new), encoding="utf-8")


def trainer(job: Path, body: str) -> None:
    """Write a custom trainer that has the required flags and executes `body`."""
    flags = "('--model', '--dataset', '--use-lora', '--output-dir')"
    source = f"import argparse\np = argparse.ArgumentParser()\nfor f in {flags}: p.add_argument(f, nargs='?')\n"
    (job / "mine.py").write_text(source + f"args = p.parse_args()\n{body}\n", encoding="utf-8")
    append(job, "trainer: mine.py\n")


def last_run(job: Path, dimba: Dimba) -> dict[str, Any]:
    runs = json.loads(dimba("ps", "-a", "--json", cwd=job).stdout)
    return runs[-1]


def inspect(engine: Engine, run: dict[str, Any]) -> dict[str, Any]:
    (found,) = engine.api.containers(all=True, filters={"label": f"dimba.run-id={run['id']}"})
    return engine.api.inspect_container(found["Id"])


def all_paths(folder: Path) -> list[Path]:
    return [folder, *folder.rglob("*")]


def test_a_job_trains_in_a_container_and_its_files_belong_to_the_folders_owner(
    tiny_job: Path, dimba: Dimba, engine: Engine
):
    if os.geteuid() == 0:
        for path in all_paths(tiny_job):
            os.chown(path, UNKNOWN_UID, UNKNOWN_UID)
        for folder in tiny_job.parents:  # pytest closes its folders to other users
            folder.chmod(folder.stat().st_mode | 0o055)
    cache = tiny_job / "cache"
    done = dimba("launch", "job.yaml", cwd=tiny_job, HF_HOME=str(cache))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "step 3/3" in done.stdout
    run = last_run(tiny_job, dimba)
    assert (run["status"], run["exit_reason"], run["runner"]) == ("succeeded", "completed", "docker")
    assert run["image_digest"].startswith("sha256:") and run["container_id"]
    attempt = tiny_job / "runs" / run["id"] / "attempts" / "1"
    assert "step 3/3" in (attempt / "log.txt").read_text()
    assert [json.loads(line)["step"] for line in (attempt / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3]
    adapter = json.loads((tiny_job / "out" / "adapter_config.json").read_text())
    assert Path(adapter["base_model_name_or_path"]).is_dir(), "the path is valid on the host too"
    owner = UNKNOWN_UID if os.geteuid() == 0 else os.getuid()
    assert {path.stat().st_uid for path in all_paths(tiny_job)} == {owner}

    container = inspect(engine, run)
    host, config = container["HostConfig"], container["Config"]
    assert config["User"] == f"{owner}:{UNKNOWN_UID if os.geteuid() == 0 else os.getgid()}"
    assert host["Init"] is True and host["ShmSize"] == 2 << 30 and host["AutoRemove"] is False
    assert host["DeviceRequests"] in (None, []) and "NVIDIA_VISIBLE_DEVICES=void" in config["Env"]
    assert config["Labels"]["dimba.run-id"] == run["id"] and config["Labels"]["dimba.attempt"] == "1"
    mounts = {mount["Target"]: mount.get("ReadOnly", False) for mount in host["Mounts"]}
    assert mounts[str(tiny_job / "data.jsonl")] is True and mounts[str(tiny_job / "out")] is False
    assert mounts[str(cache)] is False and str(REPOSITORY) not in mounts
    assert host["LogConfig"]["Config"]["max-size"]
    assert host["CapDrop"] == ["ALL"] and host["SecurityOpt"] == ["no-new-privileges"] and not host["Privileged"]
    assert host["NetworkMode"] == "none", "base and data are local"
    plan = json.loads((tiny_job / "runs" / run["id"] / "plan.json").read_text())
    assert config["Cmd"] == plan["argv"]


def test_a_current_image_is_recognised_within_half_a_second(job: Path, dimba: Dimba, engine: Engine, built: str):

    started = time.monotonic()
    image = look_at_image(engine.api, SPEC, REPOSITORY)
    assert time.monotonic() - started < 0.5
    assert image.reference == built and image.id is not None


def test_a_failing_trainer_exits_with_1_and_its_own_status_is_recorded(job: Path, dimba: Dimba):
    trainer(job, "import sys; print('working', flush=True); sys.exit(3)")
    done = dimba("launch", "job.yaml", "--trust-spec", cwd=job)
    assert done.returncode == 1 and "exited with status 3" in done.stderr
    run = last_run(job, dimba)
    assert (run["status"], run["exit_reason"], run["exit_code"]) == ("failed", "trainer_error", 3)
    assert dimba("logs", run["id"], cwd=job).stdout == "working\n"


def test_a_secret_reaches_only_the_trainer(job: Path, dimba: Dimba, engine: Engine):
    trainer(job, "import os; print(len(os.environ['HF_TOKEN']), flush=True)")
    append(job, "container: {env: [HF_TOKEN]}\n")
    secret = "hush-hush-hush-31"
    done = dimba("launch", "job.yaml", "--trust-spec", cwd=job, HF_TOKEN=secret)
    assert done.returncode == 0 and "17" in done.stdout.split(), done.stderr
    run = last_run(job, dimba)
    kept = "".join(path.read_text() for path in (job / "runs").rglob("*") if path.is_file())
    assert secret not in kept + json.dumps(inspect(engine, run))
    assert "HF_TOKEN" in json.loads((job / "runs" / run["id"] / "plan.json").read_text())["env"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("cdi", [("cdi", ["nvidia.com/gpu=0", "nvidia.com/gpu=1"])]),
        ("nvidia", [("nvidia", ["0", "1"])]),
    ],
)
def test_gpus_are_passed_by_id_on_both_paths(
    job: Path, dimba: Dimba, engine: Engine, path: str, expected: list[tuple[str, list[str]]]
):
    # One write, as two ranks print at once.
    trainer(job, "import os; os.write(1, f\"cpu? {os.environ.get('DIMBA_ON_CPU_INSTEAD')}\\n\".encode())")
    edit(job, "gpus: none", "gpus: all")
    done = dimba("launch", "job.yaml", "--trust-spec", "--allow-cpu", cwd=job, DIMBA_GPU_PATH=path)
    assert done.returncode == 0, done.stdout + done.stderr
    requests = inspect(engine, last_run(job, dimba))["HostConfig"]["DeviceRequests"]
    assert [(each["Driver"], each["DeviceIDs"]) for each in requests] == expected
    assert all(each["Count"] == 0 for each in requests)
    assert "cpu? 1" in done.stdout


def test_two_pretend_gpus_train_the_weights_of_one_process(tiny_job: Path, dimba: Dimba, engine: Engine):
    append(tiny_job, 'accelerate: {mixed_precision: "no"}\ntrainer_args: {save-steps: 2}\n')
    done = dimba("launch", "job.yaml", "--set", "output_dir=alone", cwd=tiny_job)
    assert done.returncode == 0, done.stdout + done.stderr
    edit(tiny_job, "gpus: none", "gpus: [0, 1]")
    done = dimba("launch", "job.yaml", "--allow-cpu", cwd=tiny_job)
    assert done.returncode == 0, done.stdout + done.stderr
    steps = [line for line in done.stdout.splitlines() if line.startswith("step ")]
    assert steps and all("on the CPU instead" in line for line in steps)
    assert "step 3/3" in done.stdout and "resolve" not in done.stdout and "hostname" not in done.stdout
    run = last_run(tiny_job, dimba)
    assert inspect(engine, run)["HostConfig"]["NetworkMode"] == "none", "the ranks need no network"
    folder = tiny_job / "runs" / run["id"]
    plan = json.loads((folder / "plan.json").read_text())
    started = json.loads((folder / "attempts" / "1" / "accelerate.json").read_text())
    assert (plan["network"], plan["steps"]["processes"], started["num_processes"]) == ("none", 2, 2)
    assert saved_rank_count(tiny_job / "out") == 2
    assert largest_difference(tiny_job / "alone", tiny_job / "out") < 1e-5


def test_a_job_has_a_network_only_if_the_spec_asks_for_a_bridge(job: Path, dimba: Dimba, engine: Engine):
    trainer(job, "import os, socket; print(sorted(os.listdir('/sys/class/net')), socket.gethostbyname('dimba'))")
    done = dimba("launch", "job.yaml", "--trust-spec", cwd=job)
    assert "['lo'] 127.0.0.1" in done.stdout, done.stdout + done.stderr
    edit(job, "socket.gethostbyname('dimba')", "''", "mine.py")
    bridged = ("--set", "container.network=bridge", "--set", "output_dir=out2")
    done = dimba("launch", "job.yaml", "--trust-spec", *bridged, cwd=job)
    assert "'eth0'" in done.stdout, done.stdout + done.stderr


def test_the_container_of_a_one_shot_command_has_no_capabilities(engine: Engine, built: str):
    code = "print([line for line in open('/proc/self/status') if line.startswith(('Cap', 'NoNew'))])"
    place = OneShot(uid=UNKNOWN_UID, gid=UNKNOWN_UID, image=built)
    text = DockerRunner(engine, REPOSITORY).run_once(["python", "-c", code], place).text
    assert "CapBnd:\\t0000000000000000" in text and "NoNewPrivs:\\t1" in text


def test_gpus_that_do_not_work_in_the_container_abort_the_launch(job: Path, dimba: Dimba):
    edit(job, "gpus: none", "gpus: [1]")
    done = dimba("launch", "job.yaml", cwd=job)
    assert done.returncode == 3 and "--allow-cpu" in done.stderr
    run = last_run(job, dimba)
    assert (run["status"], run["exit_reason"]) == ("failed", "start_failed")


def test_with_allow_cpu_pretend_gpus_train_on_the_cpu_and_every_step_line_notes_it(tiny_job: Path, dimba: Dimba):
    edit(tiny_job, "gpus: none", "gpus: 1")
    done = dimba("launch", "job.yaml", "--allow-cpu", cwd=tiny_job)
    assert done.returncode == 0, done.stdout + done.stderr
    steps = [line for line in done.stdout.splitlines() if line.startswith("step ")]
    assert steps and all("on the CPU instead" in line for line in steps)


def test_an_unknown_device_leaves_no_container_behind(job: Path, engine: Engine):
    plan = make_plan(SPEC, FACTS)
    image = ImageFacts(reference=TEST_BASE, key=None, base=None, base_digest=None, id="x")
    plan = replace(plan, mounts=(), image=image, argv=("true",), working_dir="/", gpu_devices=("nvidia.com/gpu=9",))
    before = len(engine.api.containers(all=True))
    with pytest.raises(HostCannot, match="no such CDI device"):
        DockerRunner(engine, REPOSITORY).start(plan, run_id="none", attempt=1, log=job / "log", secrets={})
    assert len(engine.api.containers(all=True)) == before


def test_the_error_of_a_failing_build_names_the_step_and_its_last_lines(tmp_path: Path, engine: Engine):

    for name in ("docker/certs", "docker/eval", "docker/llama", "docker/wheels", "dimba", "scripts"):
        (tmp_path / name).mkdir(parents=True)
    for name in (
        "docker/certs/.gitkeep",
        "docker/wheels/.gitkeep",
        "docker/requirements.txt",
        "docker/constraints.txt",
        "docker/requirements-vllm.txt",
        "docker/constraints-vllm.txt",
        "docker/eval/requirements.txt",
        "docker/eval/constraints.txt",
        "docker/llama/CMakeLists.txt",
        "docker/llama/make_llama.py",
        "docker/llama/requirements.txt",
    ):
        (tmp_path / name).touch()
    (tmp_path / "Dockerfile").write_text(
        f"ARG BASE_IMAGE={TEST_BASE}\nFROM ${{BASE_IMAGE}}\nRUN echo fetching && echo no such thing >&2 && exit 7\n"
    )
    with pytest.raises(EngineFailed) as raised:
        DockerRunner(engine, tmp_path).prepare(SPEC, lambda *_: None)
    assert "step 3/4: RUN echo fetching" in raised.value.message
    assert "| no such thing" in raised.value.message and raised.value.exit_status == 4


def test_the_error_of_a_missing_base_image_names_the_alternatives(job: Path, dimba: Dimba):
    done = dimba("launch", "job.yaml", cwd=job, DIMBA_BASE_IMAGE="missing/image:1")
    assert done.returncode == 4
    assert "container.base_image" in done.stderr and "docker/make-base-image" in done.stderr


def test_an_engine_without_gpu_support_is_an_error_of_the_host(engine: Engine):

    api = engine.api
    request = DeviceRequest(driver="missing", device_ids=["0"], capabilities=[["gpu"]])
    created = api.create_container(TEST_BASE, ["true"], host_config=api.create_host_config(device_requests=[request]))
    try:
        with pytest.raises(APIError) as raised:
            api.start(created["Id"])
    finally:
        api.remove_container(created["Id"])
    error = translated(str(raised.value.explanation), "starting")
    assert error.exit_status == 3 and "nvidia-container-toolkit" in error.hint


def test_the_image_key_covers_code_base_image_and_wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):

    before = gather_context(REPOSITORY)
    assert "dimba/common/contract.py" in before.files and not any("test" in name for name in before.files)
    assert image_key(before, "b", "sha256:1") != image_key(before, "b", "sha256:2")
    (tmp_path / "x.whl").write_bytes(b"wheel")
    monkeypatch.setenv("DIMBA_WHEELS", str(tmp_path))
    assert gather_context(REPOSITORY).digest != before.digest


def with_vllm(spec: JobSpec) -> JobSpec:
    return spec.model_copy(update={"mode": "grpo", "trainer_args": {"use-vllm": True}})


def stand_in_wheel(folder: Path, name: str = "only_here", version: str = "1.0") -> None:
    """Write a wheel of an empty module; no index has `only_here`."""
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        place, metadata = f"{name}-{version}.dist-info", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        wheel.writestr(f"{name}.py", "")
        wheel.writestr(f"{place}/METADATA", metadata)
        wheel.writestr(f"{place}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{place}/RECORD", "")


def test_an_image_has_vllm_only_if_the_job_samples_with_it(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    project, wheels = copy_of_the_project(tmp_path / "project"), tmp_path / "wheels"
    (project / "docker" / "requirements-vllm.txt").write_text("only-here==1.0\n", encoding="utf-8")
    stand_in_wheel(wheels)
    monkeypatch.setenv("DIMBA_WHEELS", str(wheels))
    runner = DockerRunner(engine, project)
    without, image = runner.look(SPEC), runner.prepare(with_vllm(SPEC), lambda *_: None)
    assert without and image and image.id and image.key != without.key
    output = runner.run_once(["python", "-c", "import only_here"], OneShot(image=image.reference, uid=1, gid=1))
    engine.api.remove_image(image.reference, force=True)
    assert output.exit_code == 0


def test_the_latest_releases_have_an_image_of_their_own_that_knows_its_versions(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    project, wheels = copy_of_the_project(tmp_path / "project"), tmp_path / "wheels"
    (project / "docker" / "requirements.txt").write_text("transformers==1.0\ntorch==1.0\n", encoding="utf-8")
    (project / "docker" / "constraints.txt").write_text("transformers==1.0\n", encoding="utf-8")
    for name, version in (("transformers", "1.0"), ("transformers", "999.0"), ("torch", "1.0"), ("torch", "999.0")):
        stand_in_wheel(wheels, name, version)
    monkeypatch.setenv("DIMBA_WHEELS", str(wheels))
    runner, latest = DockerRunner(engine, project), Container(pins="latest")
    tested, image = runner.look(SPEC), runner.prepare(SPEC, lambda *_: None, latest)
    assert tested and image and image.id and image.key != tested.key and tested.id is None
    assert image.versions == {"torch": "1.0", "transformers": "999.0"} and image.resolved
    again = runner.look(SPEC, Container(image=image.reference))
    assert again and (again.key, again.pins, again.versions) == (None, "latest", image.versions)
    names = [tag for each in engine.api.images() for tag in each["RepoTags"] or ()]
    engine.api.remove_image(image.reference, force=True)
    assert image.reference in names and not any("unlabelled" in name for name in names)


def test_an_image_with_triton_has_a_c_compiler(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    project, wheels = copy_of_the_project(tmp_path / "project"), tmp_path / "wheels"
    (project / "docker" / "requirements.txt").write_text("triton==1.0\n", encoding="utf-8")
    (project / "docker" / "constraints.txt").write_text("", encoding="utf-8")
    stand_in_wheel(wheels, "triton")
    monkeypatch.setenv("DIMBA_WHEELS", str(wheels))
    runner = DockerRunner(engine, project)
    image = runner.prepare(SPEC, lambda *_: None)
    assert image is not None and image.id
    compiled = "gcc -shared -fPIC -I$(python -c 'import sysconfig; print(sysconfig.get_paths()[\"include\"])')"
    script = f"echo '#include <Python.h>' > /tmp/part.c && {compiled} /tmp/part.c -o /tmp/part.so && echo compiled"
    done = runner.run_once(["sh", "-c", script], OneShot(uid=1234, gid=1234, image=image.reference))
    engine.api.remove_image(image.reference, force=True)
    assert done.text == "compiled\n"


def test_a_companys_ca_and_a_folder_of_wheels_are_built_into_the_image(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    project, wheels = copy_of_the_project(tmp_path / "project"), tmp_path / "wheels"
    (project / "docker" / "requirements.txt").write_text("only-here==1.0\n", encoding="utf-8")
    stand_in_wheel(wheels)
    (tmp_path / "company.crt").write_text("a company's certificate\n", encoding="utf-8")
    monkeypatch.setenv("DIMBA_WHEELS", str(wheels))
    monkeypatch.setenv("DIMBA_CA_CERT", str(tmp_path / "company.crt"))
    runner = DockerRunner(engine, project)
    image = runner.prepare(SPEC, lambda *_: None)
    assert image is not None and image.id
    code = "import only_here; print(open('/etc/ssl/certs/ca-certificates.crt').read().splitlines()[-1])"
    done = runner.run_once(["python", "-c", code], OneShot(uid=os.getuid(), gid=os.getgid(), image=image.reference))
    assert done.text == "a company's certificate\n"
    engine.api.remove_image(image.reference, force=True)


def copy_of_the_project(folder: Path) -> Path:
    folder.mkdir()
    for name in ("Dockerfile", "docker", "dimba", "scripts"):
        copy = shutil.copytree if (REPOSITORY / name).is_dir() else shutil.copy
        copy(REPOSITORY / name, folder / name)
    return folder


def test_a_source_edit_rebuilds_the_image_within_twenty_seconds(engine: Engine, tmp_path: Path):

    project = copy_of_the_project(tmp_path / "project")
    (project / "dimba" / "edited.py").write_text("# edited\n", encoding="utf-8")
    started = time.monotonic()
    image = DockerRunner(engine, project).prepare(SPEC, lambda *_: None)
    assert time.monotonic() - started < 20
    assert image is not None and image.id
    engine.api.remove_image(image.reference, force=True)


def test_ctrl_c_without_a_terminal_stops_the_run_and_its_container(job: Path, engine: Engine, dimba: Dimba):

    trainer(
        job,
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('saved', flush=True), sys.exit(143)))\n"
        "print('ready', flush=True); time.sleep(60)",
    )
    command = [sys.executable, "-m", "dimba", "launch", "job.yaml", "--trust-spec"]
    process = subprocess.Popen(command, cwd=job, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line == "ready\n":
            process.send_signal(signal.SIGINT)
            break
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "saved" in output and "stopped" in errors, errors
    run = last_run(job, dimba)
    assert (run["status"], run["exit_reason"]) == ("stopped", "stopped_by_user")
    assert inspect(engine, run)["State"]["Running"] is False


def test_a_run_whose_launcher_was_killed_is_still_recorded_to_its_end(job: Path, engine: Engine, dimba: Dimba):

    trainer(job, "import time; print('ready', flush=True); time.sleep(3); print('done', flush=True)")
    command = [sys.executable, "-m", "dimba", "launch", "job.yaml", "--trust-spec"]
    process = subprocess.Popen(command, cwd=job, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.kill()
    process.wait()
    assert last_run(job, dimba)["status"] == "running"
    engine.api.wait(last_run(job, dimba)["container_id"])
    assert last_run(job, dimba)["status"] == "succeeded"
    assert dimba("logs", "sft-lora", cwd=job).stdout == "ready\ndone\n"


def test_doctor_reports_the_gpus_in_a_container(tmp_path: Path, dimba: Dimba):
    done = dimba("doctor", "--json", cwd=tmp_path)
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    assert checks["engine"]["status"] == checks["base image"]["status"] == "ok"
    assert checks["GPUs in a container"]["detail"] == "2 seen by nvidia-smi, passed by CDI"


def test_plan_leaves_no_container_and_no_run(job: Path, dimba: Dimba, engine: Engine):
    before = {container["Id"] for container in engine.api.containers(all=True)}
    plan = json.loads(dimba("plan", "job.yaml", "--json", cwd=job).stdout)
    assert plan["image"]["id"] and plan["image"]["key"] and plan["flags_from"] == "--help"
    assert {container["Id"] for container in engine.api.containers(all=True)} == before
    assert not (job / "runs").exists()
