"""The use case of `dimba plan --runner kubernetes`: look at what the spec names, plan it for all nodes, render them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from dimba.common.contract import IMAGE_HOME
from dimba.common.errors import DimbaError, raise_all
from dimba.host.facts import EngineFacts, Gpu, GpuFacts, HostFacts, ImageFacts
from dimba.host.probe import probe
from dimba.jobs.launch import located
from dimba.jobs.trust import harms_of
from dimba.plan.build import Choices, make_plan
from dimba.plan.kubernetes import (
    Object,
    cards_of,
    claim_of,
    cluster_objects,
    cluster_problems,
    place_problems,
)
from dimba.plan.model import LaunchPlan
from dimba.runners.flags import trainer_facts
from dimba.runners.registry import host_runner
from dimba.spec import LoadedSpec

KUBERNETES = "kubernetes"
NOT_RUN = "only rendered: tests hold this to Kubernetes' published schemas, and it has not run on a cluster"
_NO_CACHE = "the Hugging Face cache is on none of the claims: what a pod downloads goes with it"


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """What `kubectl apply` takes, and what to say beside it."""

    objects: tuple[Object, ...]
    notes: tuple[str, ...]


def render(loaded: LoadedSpec, progress: Callable[[int], None]) -> Rendered:
    """The objects of a job; raises everything that is in the way at once. Asks no engine and no cluster."""
    spec = loaded.spec
    try:
        raise_all(list(cluster_problems(spec)))
        facts = _facts(loaded, progress)
        plan = make_plan(spec, facts, Choices(rendered_for=KUBERNETES))
        raise_all(list(place_problems(plan, spec)))
    except DimbaError as error:
        raise located(error, loaded) from None
    return Rendered(objects=cluster_objects(plan, spec), notes=tuple(_notes(plan, facts)))


def _notes(plan: LaunchPlan, facts: HostFacts) -> list[str]:
    trust = [f"it brings along what could do harm, if it is a stranger's: {each}" for each in plan.trust]
    cache = [_NO_CACHE] if facts.cache.is_relative_to(IMAGE_HOME) else []
    return [*plan.notes, *trust, *cache, NOT_RUN]


def _facts(loaded: LoadedSpec, progress: Callable[[int], None]) -> HostFacts:
    """This machine's files on the cluster's nodes."""
    spec = loaded.spec
    cards = tuple(Gpu(index=number) for number in range(cards_of(spec)))
    facts = probe(spec, EngineFacts(reachable=True), folder=Path.cwd(), progress=progress, gpu=GpuFacts(gpus=cards))
    on_claim = claim_of(facts.cache, spec.kubernetes.volumes) is not None
    image = ImageFacts(reference=str(spec.kubernetes.image), key=None, base=None, base_digest=None, id=None)
    facts = replace(
        facts,
        image=image,
        cores=spec.kubernetes.cpus * max(1, len(cards)),
        cache=facts.cache if on_claim else Path(IMAGE_HOME, ".cache", "huggingface"),
        environment=facts.environment | set(spec.container.env),  # the Secret has them, as far as anybody knows here
        short_secrets=frozenset(),
        harms=harms_of(loaded, facts.folder),
    )
    return replace(facts, trainer=trainer_facts(facts, image, host_runner().run_once, ask=False))
