"""Where a one-shot command of a spec runs: image, user, mounts, environment."""

import os
from typing import Any

from dimba.host.facts import HostFacts
from dimba.host.proxies import PROXY_VARIABLES
from dimba.plan.environment import hub_login, job_environment
from dimba.plan.model import Mount
from dimba.plan.network import OFFLINE
from dimba.runners.protocol import OneShot
from dimba.spec import JobSpec

_TOKEN = "HF_TOKEN"  # noqa: S105  # a variable's name


def one_shot(
    spec: JobSpec,
    facts: HostFacts,
    mounts: tuple[Mount, ...],
    *,
    is_local: bool,
    further: tuple[str, ...] = (),
    **how: Any,
) -> OneShot:
    """The place of a command: of the spec's variables the Hub's token and proxies alone, as others could run code.

    `is_local`: the command needs no network; `further`: more variables of this process to pass on as secrets.
    """
    named = ({_TOKEN, *PROXY_VARIABLES} & set(spec.container.env) | set(further)) & set(os.environ)
    image = facts.image
    network = spec.container.network != "none" and not is_local
    return OneShot(
        uid=facts.output.uid,
        gid=facts.output.gid,
        image=(image.id or image.reference) if image else "",
        mounts=mounts,
        environment=job_environment(facts.cache, inside=image is not None)
        | hub_login(named)
        | ({} if network else OFFLINE),
        secrets={name: os.environ[name] for name in named},
        network=network,
        **how,
    )
