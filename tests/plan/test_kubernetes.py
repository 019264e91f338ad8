"""What is rendered for a cluster: held to the published schemas, and to the plan."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from dimba.common import contract
from dimba.common.contract import STOP_MARGIN
from dimba.spec import documents_yaml
from tests.conftest import Dimba

SETTINGS = """\
kubernetes:
  image: registry.example/dimba:1
  namespace: ml
  volumes: {{team: {folder}}}
  secret: tokens
  queue: gpus
  service_account: trainer
  cpus: 6
"""
RANK = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
VERSIONS = ("1.28", "1.37")


def rendered(job: Path, dimba: Dimba, added: str = SETTINGS, old: str = "", new: str = "") -> list[dict[str, Any]]:
    path = job / "job.yaml"
    text = path.read_text(encoding="utf-8").replace(old, new)
    text = text.replace("grad_accumulation_steps: 2", "grad_accumulation_steps: 96")  # for any number of nodes
    path.write_text(text + added.format(folder=job), encoding="utf-8")
    done = dimba("plan", "job.yaml", "--runner", "kubernetes", cwd=job, HF_HOME=str(job / "cache"))
    assert done.returncode == 0, done.stderr
    assert "has not run on a cluster" in done.stderr
    return list(yaml.safe_load_all(done.stdout))


def container(objects: list[dict[str, Any]]) -> dict[str, Any]:
    (found,) = objects[1]["spec"]["template"]["spec"]["containers"]
    return dict(found)


@pytest.mark.parametrize("resources", ["gpus: none", "gpus: 8, nodes: 4, memory: 64g", "gpus: 1", "gpus: 0, nodes: 3"])
def test_every_object_fits_the_published_schemas(job: Path, dimba: Dimba, resources: str):
    objects = rendered(job, dimba, old="gpus: none", new=resources)
    for version in VERSIONS:
        for each in objects:
            kubernetes_validate.validate(each, version, strict=True)
    listed = json.loads(dimba("plan", "job.yaml", "--runner", "kubernetes", "--json", cwd=job).stdout)
    assert listed["kind"] == "List" and [each["kind"] for each in listed["items"]] == ["Service", "Job"]


def test_the_schemas_refuse_what_is_wrong(job: Path, dimba: Dimba):
    _service, made = rendered(job, dimba)
    made["spec"]["completion"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(made, VERSIONS[-1], strict=True)


def test_pods_find_each_other_by_the_headless_service(job: Path, dimba: Dimba):
    service, made = rendered(job, dimba, "name: My_run.1\n" + SETTINGS, "gpus: none", "gpus: 2, nodes: 4")
    name = "my-run-1"
    pod = made["spec"]["template"]
    assert service["spec"]["clusterIP"] == "None" and service["spec"]["publishNotReadyAddresses"] is True
    assert service["metadata"]["name"] == made["metadata"]["name"] == pod["spec"]["subdomain"] == name
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert (made["spec"]["completionMode"], made["spec"]["completions"], made["spec"]["parallelism"]) == (
        "Indexed",
        4,
        4,
    )
    variables = {each["name"]: each.get("value") or each["valueFrom"] for each in container([service, made])["env"]}
    assert variables[contract.ENV_NODES] == "4"
    assert variables[contract.ENV_NODE_RANK] == {"fieldRef": {"fieldPath": RANK}}
    assert variables[contract.ENV_MAIN_ADDRESS] == f"{name}-0.{name}"
    assert int(variables[contract.ENV_MAIN_PORT]) == service["spec"]["ports"][0]["port"]


def test_a_pod_has_what_the_plan_gives_a_container(job: Path, dimba: Dimba):
    added = SETTINGS + "container: {{env: [HF_TOKEN]}}\n"
    service, made = rendered(job, dimba, added, "gpus: none", "gpus: 2, memory: 64g")
    pod, one = made["spec"]["template"]["spec"], container([service, made])
    assert made["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    assert (made["metadata"]["namespace"], pod["serviceAccountName"]) == ("ml", "trainer")
    assert pod["restartPolicy"] == "Never" and made["spec"]["backoffLimit"] == 0
    assert pod["terminationGracePeriodSeconds"] > STOP_MARGIN
    assert one["image"] == "registry.example/dimba:1"
    assert one["resources"] == {
        "requests": {"cpu": "12", "memory": str(64 << 30)},
        "limits": {"memory": str(64 << 30), "nvidia.com/gpu": "2"},
    }
    shm, claim = pod["volumes"]
    assert shm["emptyDir"] == {"medium": "Memory", "sizeLimit": str(3 << 30)}
    assert claim["persistentVolumeClaim"] == {"claimName": "team"}
    assert {each["mountPath"] for each in one["volumeMounts"]} == {"/dev/shm", str(job)}
    assert {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "tokens", "key": "HF_TOKEN"}}} in one["env"]
    assert one["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


@pytest.mark.parametrize(("resources", "of_each"), [("gpus: 1, nodes: 4", "24"), ("gpus: 2, nodes: 4", "12")])
def test_a_model_is_shared_by_the_cards_of_all_nodes(job: Path, dimba: Dimba, resources: str, of_each: str):
    added = SETTINGS + "accelerate: {{strategy: fsdp2}}\n"
    one = container(rendered(job, dimba, added, "gpus: none", resources))
    assert "--use_fsdp" in one["command"]
    assert one["command"][one["command"].index("--grad-accumulation-steps") + 1] == of_each
    assert one["resources"]["requests"]["cpu"] == str(6 * int(resources[6]))
    (job / "job.yaml").write_text((job / "job.yaml").read_text().replace(resources, "gpus: 1"))
    done = dimba("plan", "job.yaml", "--runner", "kubernetes", cwd=job)
    assert done.returncode == 2 and "accelerate.strategy: `fsdp2` needs two GPUs" in done.stderr


def test_the_command_and_environment_are_those_of_a_container_on_the_cpu(
    job: Path, dimba: Dimba, monkeypatch: pytest.MonkeyPatch
):
    """Held to the plan of the docker runner, where what differs is said here: threads, network and cache."""
    from dimba.host.facts import EngineFacts, ImageFacts
    from dimba.host.probe import probe
    from dimba.plan.build import make_plan
    from dimba.runners.flags import trainer_facts
    from dimba.runners.process import ProcessRunner
    from dimba.spec import load_spec

    one = container(rendered(job, dimba))
    monkeypatch.chdir(job)
    monkeypatch.setenv("HF_HOME", str(job / "cache"))
    spec = load_spec(job / "job.yaml", ["runner=docker"]).spec
    image = ImageFacts(reference="x", key="k", base=None, base_digest=None, id=None)
    facts = replace(probe(spec, EngineFacts(reachable=True), folder=job), image=image, cores=6)
    facts = replace(facts, trainer=trainer_facts(facts, image, ProcessRunner().run_once, ask=False))
    plan = make_plan(spec, facts)
    assert one["command"] == list(plan.argv)
    apart = {"HF_HUB_OFFLINE", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"}  # pods have a network, and meet over it
    variables = {each["name"]: each["value"] for each in one["env"] if "value" in each}
    wanted = {name: value for name, value in plan.environment.items() if name not in apart}
    assert wanted.items() <= variables.items()
    added = {contract.ENV_NODES, contract.ENV_MAIN_ADDRESS, contract.ENV_MAIN_PORT, "NVIDIA_VISIBLE_DEVICES"}
    assert variables.keys() - wanted.keys() == added


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("image: registry.example/dimba:1", "image: null", "kubernetes.image: no image is named"),
        ("gpus: none", "gpus: all", "resources.gpus: "),
        ("gpus: none", "gpus: [0, 1]", "resources.gpus: "),
        ("cpus: 6", "cpus: 6\ncontainer: {mounts: [/srv]}", "container.mounts: "),
        ("cpus: 6", "cpus: 6\ncontainer: {network: none}", "container.network: "),
        ("  secret: tokens\n", "", "kubernetes.secret: "),
        ("volumes: {team: ", "volumes: {team: /srv, other: /elsewhere", "kubernetes.volumes: "),
        ("volumes: {team: ", "volumes: {team: /opt, other: ", "kubernetes.volumes.team: "),
        ("volumes: {team: ", "volumes: {other: /work, third: /work/, team: ", "kubernetes.volumes.third: "),
        ("namespace: ml", "namespace: M_L", "is no name in a cluster"),
        ("queue: gpus", "que: gpus", "did you mean `queue`?"),
    ],
)
def test_what_cannot_be_rendered_is_refused_with_what_to_do(job: Path, dimba: Dimba, old: str, new: str, said: str):
    path = job / "job.yaml"
    text = path.read_text(encoding="utf-8") + SETTINGS.format(folder=job)
    assert old in text
    text = text.replace(old, new)
    if "container:" not in text:
        text += "container: {env: [HF_TOKEN]}\n"
    path.write_text(text, encoding="utf-8")
    done = dimba("plan", "job.yaml", "--runner", "kubernetes", cwd=job)
    assert done.returncode == 2 and said in done.stderr and not done.stdout, done.stderr


@pytest.mark.parametrize("command", ["launch", "data"])
def test_nothing_is_started_on_a_cluster(job: Path, dimba: Dimba, command: str):
    done = dimba(command, "job.yaml", "--runner", "kubernetes", cwd=job)
    assert done.returncode == 2 and "| kubectl apply -f -" in done.stderr


@pytest.mark.parametrize("text", ["no", "y", "on", "1", "0x1f", "1:30", "2e-4", "~", "null", "-m", "a: b", "é", ""])
def test_a_text_stays_one_in_every_yaml(text: str):
    assert yaml.safe_load(documents_yaml([{"text": text}])) == {"text": text}
