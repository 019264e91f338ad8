"""`dimba plan --runner kubernetes`: gathers facts, plans for all nodes, and renders the objects."""

from dataclasses import dataclass, replace
from pathlib import Path

from dimba.common.contract import IMAGE_HOME
from dimba.common.errors import DimbaError, raise_all
from dimba.host.facts import EngineFacts, HostFacts, ImageFacts
from dimba.jobs.context import JobContext, Policy, RowsRead, gather
from dimba.plan.build import Choices
from dimba.plan.kubernetes import (
    Object,
    claim_of,
    cluster_nodes,
    cluster_objects,
    cluster_problems,
    place_problems,
)
from dimba.plan.model import LaunchPlan
from dimba.runners.protocol import FoundRunner
from dimba.runners.registry import host_runner
from dimba.spec import JobSpec, LoadedSpec

KUBERNETES = "kubernetes"
NOT_RUN = "only rendered: tests hold this to Kubernetes' published schemas, and it has not run on a cluster"
_NO_CACHE = "the Hugging Face cache is on none of the claims: a pod's downloads are lost with it"


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """The objects for `kubectl apply`, and notes for the user."""

    objects: tuple[Object, ...]
    notes: tuple[str, ...]


def render(loaded: LoadedSpec, progress: RowsRead) -> Rendered:
    """The objects of a job; raises all problems at once. Asks no engine and no cluster."""
    spec = loaded.spec
    try:
        raise_all(list(cluster_problems(spec)))
        context = _context(loaded, progress)
        plan = context.plan()
        raise_all(list(place_problems(plan, spec)))
    except DimbaError as error:
        raise loaded.locate(error) from None
    return Rendered(objects=cluster_objects(plan, spec), notes=tuple(_notes(plan, context.facts)))


def _notes(plan: LaunchPlan, facts: HostFacts) -> list[str]:
    trust = [f"requires trust in the spec's author: {each}" for each in plan.trust]
    cache = [_NO_CACHE] if facts.cache.is_relative_to(IMAGE_HOME) else []
    return [*plan.notes, *trust, *cache, NOT_RUN]


def _context(loaded: LoadedSpec, progress: RowsRead) -> JobContext:
    policy = Policy(
        choices=Choices(rendered_for=KUBERNETES),
        gpu=cluster_nodes(loaded.spec).gpu,
        elsewhere=lambda facts: _in_pods(loaded.spec, facts),
    )
    return gather(loaded, FoundRunner(host_runner(), EngineFacts(reachable=False)), policy, progress)


def _in_pods(spec: JobSpec, facts: HostFacts) -> HostFacts:
    """The facts of a cluster node with this machine's files."""
    on_claim = claim_of(facts.cache, spec.kubernetes.volumes) is not None
    return replace(
        facts.on(cluster_nodes(spec)),
        image=ImageFacts(reference=str(spec.kubernetes.image), key=None, base=None, base_digest=None, id=None),
        cache=facts.cache if on_claim else Path(IMAGE_HOME, ".cache", "huggingface"),
        environment=facts.environment | set(spec.container.env),  # assumed to be in the Secret
        short_secrets=frozenset(),
    )
