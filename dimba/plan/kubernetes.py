"""A plan as an Indexed Job and its headless Service. Pure."""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from dimba.common import contract
from dimba.common.errors import BadInput, DimbaError
from dimba.host.facts import ClusterNodes, Gpu, GpuFacts
from dimba.plan.model import LaunchPlan
from dimba.plan.mounts import hides_the_image
from dimba.spec import JobSpec

Object = dict[str, Any]

_PORT = 29500
_NAME_LENGTH = 50  # a pod's host name ends in its index, and has 63 characters at most
_SHM = "shm"
# Set by the Job's controller, on each pod that it makes; it is also where JOB_COMPLETION_INDEX comes from.
_RANK = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
_KUEUE = "kueue.x-k8s.io/queue-name"


def cluster_nodes(spec: JobSpec) -> ClusterNodes:
    """A node of the cluster, with the GPUs and cores that are requested."""
    count = spec.resources.gpus if isinstance(spec.resources.gpus, int) else 0
    gpus = tuple(Gpu(index=number) for number in range(count))
    return ClusterNodes(gpu=GpuFacts(gpus=gpus), cores=spec.kubernetes.cpus * max(1, count))


def cluster_problems(spec: JobSpec) -> Iterator[DimbaError]:
    """The problems of a spec for rendering."""
    settings = spec.kubernetes
    if not settings.image:
        hint = "build one (`docker compose build sft`), push it to the cluster's registry, and name it"
        yield BadInput("no image is named", hint, key="kubernetes.image")
    if not isinstance(spec.resources.gpus, int) and spec.resources.gpus != "none":
        hint = "give the number of GPUs per node, or `none`"
        yield BadInput("the number of GPUs per node of the cluster is not known here", hint, key="resources.gpus")
    if any("=" not in item for item in spec.container.env) and not settings.secret:
        hint = "name the Secret whose keys are these variables"
        yield BadInput("`container.env` names variables, and no Secret holds them", hint, key="kubernetes.secret")
    if spec.container.mounts:
        hint = "remove them; `kubernetes.volumes: {claim: /path}` mounts claims"
        yield BadInput("a pod cannot mount folders of this machine", hint, key="container.mounts")
    if spec.container.network in ("none", "host"):
        hint = "set `network: auto`; a NetworkPolicy of the cluster can restrict it"
        yield BadInput(f"`{spec.container.network}` is not rendered", hint, key="container.network")
    places = [PurePosixPath(place) for place in settings.volumes.values()]
    for claim, place in zip(settings.volumes, places, strict=True):
        if hides_the_image(place) or places.count(place) > 1:
            hint = "give an absolute path that the image does not use, such as /data"
            yield BadInput(f"`{place}` cannot be a mount point", hint, key=f"kubernetes.volumes.{claim}")


def claim_of(place: Path, volumes: dict[str, str]) -> str | None:
    """The innermost claim that contains `place`."""
    holding = [claim for claim, path in volumes.items() if place.is_relative_to(path)]
    return max(holding, key=lambda claim: len(volumes[claim]), default=None)


def place_problems(plan: LaunchPlan, spec: JobSpec) -> Iterator[DimbaError]:
    """The problems of mounts that no claim contains."""
    for mount in plan.mounts:
        place = Path(mount.source)
        if str(place) != plan.environment["HF_HOME"] and claim_of(place, spec.kubernetes.volumes) is None:
            hint = f"name the claim that contains it and its mount point: {{my-claim: {place.parent}}}"
            yield BadInput(f"{place} is on none of the claims", hint, key="kubernetes.volumes")


def cluster_objects(plan: LaunchPlan, spec: JobSpec) -> tuple[Object, Object]:
    """The Service by which the pods find the first one, and the Job."""
    name = _name(spec.name)
    labels = {"app.kubernetes.io/name": "dimba", "app.kubernetes.io/instance": name}
    queue = {_KUEUE: spec.kubernetes.queue} if spec.kubernetes.queue else {}
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(name, labels, spec),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,  # the others look for the first pod before it listens
            "selector": labels,
            "ports": [{"name": "main", "port": _PORT}],
        },
    }
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _metadata(name, labels | queue, spec),
        "spec": {
            "completionMode": "Indexed",
            "completions": spec.resources.nodes,
            "parallelism": spec.resources.nodes,
            "backoffLimit": 0,  # a restarted pod would start over, and the others would wait for it forever
            "template": {"metadata": {"labels": labels}, "spec": _pod(plan, spec, name)},
        },
    }
    return service, job


def _name(text: str) -> str:
    """A valid name for a Service."""
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    name = name if name[:1].isalpha() else f"job-{name}"
    return name[:_NAME_LENGTH].rstrip("-")


def _metadata(name: str, labels: Object, spec: JobSpec) -> Object:
    namespace = spec.kubernetes.namespace
    return {"name": name, **({"namespace": namespace} if namespace else {}), "labels": labels}


def _pod(plan: LaunchPlan, spec: JobSpec, name: str) -> Object:
    account = spec.kubernetes.service_account
    shm = {"name": _SHM, "emptyDir": {"medium": "Memory", "sizeLimit": str(plan.shm_bytes)}}
    claims = [
        {"name": f"claim-{number}", "persistentVolumeClaim": {"claimName": claim}}
        for number, claim in enumerate(spec.kubernetes.volumes)
    ]
    return {
        "restartPolicy": "Never",
        "subdomain": name,
        **({"serviceAccountName": account} if account else {}),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "shareProcessNamespace": True,  # the pause process reaps orphans
        "terminationGracePeriodSeconds": plan.stop_seconds,
        "securityContext": {
            "runAsUser": plan.uid,
            "runAsGroup": plan.gid,
            "fsGroup": plan.gid,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(plan, spec, name)],
        "volumes": [shm, *claims],
    }


def _container(plan: LaunchPlan, spec: JobSpec, name: str) -> Object:
    volumes = spec.kubernetes.volumes
    claim = claim_of(plan.output_dir, volumes)
    assert claim is not None and spec.kubernetes.image, "`problems` has refused this spec"
    mounts = [{"name": f"claim-{number}", "mountPath": path} for number, path in enumerate(volumes.values())]
    return {
        "name": "job",
        "image": spec.kubernetes.image,
        "command": list(plan.argv),
        # The output folder may not exist yet, and the kubelet would create it as root.
        "workingDir": volumes[claim],
        "env": _environment(plan, spec, name),
        "resources": _resources(plan, spec),
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": _SHM, "mountPath": "/dev/shm"}, *mounts],  # noqa: S108  # for NCCL and the loaders
    }


def _environment(plan: LaunchPlan, spec: JobSpec, name: str) -> list[Object]:
    """The plan's variables, those of the Secret, and the pod's rank."""
    hidden = {} if plan.gpus else {"NVIDIA_VISIBLE_DEVICES": "void"}
    nodes = {
        contract.ENV_NODES: str(spec.resources.nodes),
        contract.ENV_MAIN_ADDRESS: f"{name}-0.{name}",
        contract.ENV_MAIN_PORT: str(_PORT),
    }
    values = {**plan.environment, **hidden, **nodes}
    secret = spec.kubernetes.secret
    return [
        *({"name": key, "value": value} for key, value in values.items()),
        {"name": contract.ENV_NODE_RANK, "valueFrom": {"fieldRef": {"fieldPath": _RANK}}},
        *(
            {"name": each, "valueFrom": {"secretKeyRef": {"name": secret, "key": each}}}
            for each in plan.host_environment
        ),
    ]


def _resources(plan: LaunchPlan, spec: JobSpec) -> Object:
    cpus = spec.kubernetes.cpus * max(1, len(plan.gpus))
    memory = {"memory": str(plan.memory_bytes)} if plan.memory_bytes else {}
    cards = {"nvidia.com/gpu": str(len(plan.gpus))} if plan.gpus else {}
    limits = {"limits": {**memory, **cards}} if memory or cards else {}
    return {"requests": {"cpu": str(cpus), **memory}, **limits}
