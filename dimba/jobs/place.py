"""Where a one-shot command of a spec runs: image, user, mounts, environment."""

import os
from typing import Any

from dimba.host.facts import HostFacts
from dimba.host.proxies import PROXY_VARIABLES
from dimba.plan.environment import hub_login, job_environment
from dimba.plan.model import Mount
from dimba.plan.mounts import given_mounts
from dimba.plan.network import OFFLINE
from dimba.runners.protocol import OneShot
from dimba.spec import JobSpec

_NO_LIMIT = 7 * 24 * 3600.0  # seconds
_OUTPUT_LINES = 15
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


def module_command(facts: HostFacts, module: str, *arguments: str) -> list[str]:
    """The command that runs a module of ours where jobs run."""
    # -P: without it, a module of the same name in the current folder would be imported.
    return ["python" if facts.image else facts.python, "-P", "-m", module, *arguments]


def supervised_command(facts: HostFacts, module: str, *arguments: str) -> list[str]:
    """As `module_command`, below the entry point, which reads the secrets and ends the module with itself."""
    return module_command(facts, "dimba.supervisor.entry", *module_command(facts, module, *arguments))


def data_place(spec: JobSpec, facts: HostFacts) -> OneShot:
    """The place of a command that reads the data as the trainer does, and writes nothing but the cache."""
    output = str(facts.output.path)  # may not exist yet
    mounts = tuple(each for each in given_mounts(facts) if each.target != output)
    return one_shot(spec, facts, mounts, is_local=facts.checkpoint.local and facts.data.local, timeout=_NO_LIMIT)


def last_lines(text: str) -> str:
    """The end of a command's output, for the message of its failure."""
    return "\n".join(text.strip().splitlines()[-_OUTPUT_LINES:])
