"""The network of the job's container: none, unless the job needs something that is not on this machine."""

import re
from collections.abc import Iterator
from pathlib import Path

from dimba.common.errors import BadInput
from dimba.common.output_store import local_folder
from dimba.common.runners import Capabilities
from dimba.host.facts import HostFacts
from dimba.host.proxies import PROXY_VARIABLES, proxies_in
from dimba.options.tracking_table import REPORT_TO
from dimba.plan.job import ResolvedJob
from dimba.plan.tracking import remote_trackers

OFFLINE = {"HF_HUB_OFFLINE": "1"}  # without a network, a request to the Hub fails at once with the reason
# Ranks rendezvous over the loopback, which gloo and NCCL use last, and with a warning.
_LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
_ELSEWHERE = re.compile(r"_(ENDPOINT|URL|PROXY)$", re.IGNORECASE)
_REPORTS = "WANDB_"
_STAYS = ("WANDB_MODE=offline", "WANDB_MODE=disabled")


def job_network(job: ResolvedJob, facts: HostFacts, can: Capabilities) -> tuple[str | None, str]:
    """(network, reason); None is the machine's own, which a process always has. Raises BadInput."""
    wanted = job.spec.container.network
    if can.several_nodes:
        return None, "the cluster's own"
    if not can.isolates_network:
        if wanted == "none":
            hint = "run it in a container, or remove `network: none`"
            raise BadInput("a process cannot run without the network", hint, key="container.network")
        return None, "this machine's own"
    if wanted != "auto":
        return wanted, "as asked"
    if why := next(_needs(job, facts), ""):
        return "bridge", why
    return "none", "everything it names is on this machine; `container.network: bridge` gives it one"


def network_environment(network: str | None) -> dict[str, str]:
    """Variables of a job on this network."""
    return OFFLINE | _LOOPBACK if network == "none" else {}


def proxy_notes(job: ResolvedJob, facts: HostFacts, network: str | None) -> Iterator[str]:
    """Which proxies of this machine the image's build uses, and how a job that needs the Hub gets them; names only."""
    here = proxies_in(facts.environment)
    built = proxies_in(facts.environment | facts.engine.proxies)
    if built and facts.image and facts.image.key and not facts.image.id:
        yield f"the image's build uses the proxies of this machine ({', '.join(built)}), and does not keep them"
    if (set_there := proxies_in(facts.engine.proxies)) and network in ("bridge", "host"):
        yield f"the Docker client's configuration sets {', '.join(set_there)} in the container"
    given = proxies_in(item.partition("=")[0] for item in job.spec.container.env) or proxies_in(facts.engine.proxies)
    if here and not given and network in ("bridge", "host") and next(_needs(job, facts), ""):
        wanted = ", ".join(sorted(PROXY_VARIABLES & facts.environment))
        host = ", network: host" if facts.local_proxies else ""
        yield f"the job downloads without this machine's proxy; `container: {{env: [{wanted}]{host}}}` passes it on"


def _needs(job: ResolvedJob, facts: HostFacts) -> Iterator[str]:
    if not facts.checkpoint.local:
        yield "the base is on the Hub"
    if not facts.data.local:
        yield "the data are on the Hub"
    model = job.trainer_args.get("reward-model")
    if isinstance(model, str) and not Path(model).is_absolute():  # a folder is absolute at this point
        yield "the reward model is on the Hub"
    if job.spec.output_store and local_folder(job.spec.output_store) is None:
        yield "`output_store` is not on this machine"
    if trackers := remote_trackers(job.spec):
        yield f"`{REPORT_TO.key}` sends the metrics to {' and '.join(trackers)}"
    for item in job.spec.container.env:
        name = item.partition("=")[0]
        if _ELSEWHERE.search(name) or (name.startswith(_REPORTS) and not set(_STAYS) & set(job.spec.container.env)):
            yield f"`container.env` names {name}"
