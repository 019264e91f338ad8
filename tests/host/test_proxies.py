"""The proxies of the environment reach the image's build, and a job that names them; a plan shows their names only."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dimba.common.errors import DimbaError, EngineFailed
from dimba.host.facts import DataFacts, HostFacts
from dimba.host.proxies import build_proxies, is_on_this_machine, proxies_in, secrets_of
from dimba.plan.build import make_plan
from dimba.runners.docker.engine import configured_proxies
from dimba.runners.docker.image import _follow
from dimba.spec import JobSpec, parse_spec
from tests.plan.test_plan import FACTS, SPARSE

LOGIN = "http://me:correct-horse@proxy.example:3128"
HUB = replace(FACTS, data=DataFacts(reference="owner/rows", local=False))


def spec(*overrides: str) -> JobSpec:
    return parse_spec(SPARSE.encode(), source="job.yaml", overrides=overrides).spec


def notes(facts: HostFacts, *overrides: str) -> str:
    return "\n".join(note for note in make_plan(spec(*overrides), facts).notes if "prox" in note)  # not PROXY alone


def all_notes(facts: HostFacts, *overrides: str) -> str:
    return "\n".join(make_plan(spec(*overrides), facts).notes)


def here(facts: HostFacts, *names: str, **changes: object) -> HostFacts:
    return replace(facts, environment=facts.environment | set(names), **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "FTP_PROXY"])
def test_each_proxy_reaches_the_build_in_both_spellings(name: str):
    for given in (name, name.lower()):
        assert build_proxies({given: "value", "PATH": "/bin"}) == {name: "value", name.lower(): "value"}
    assert build_proxies({name: "upper", name.lower(): "lower"}) == {name: "upper", name.lower(): "lower"}
    assert build_proxies({name: ""}) == {}


def test_a_proxy_on_the_loopback_is_recognised():
    for local in ("http://127.0.0.1:3128", "localhost:8080", "http://u:p@localhost", "socks5://[::1]:1080"):
        assert is_on_this_machine(local), local
    for other in (LOGIN, "proxy:3128", "localhost.example:1", "", ".internal,127.example", "http://[bad"):
        assert not is_on_this_machine(other), other


def test_the_secret_of_a_login_is_its_password_or_token():
    assert secrets_of({"A": "http://me:p%40ss@proxy:1"})[1:] == ["p%40ss", "p@ss"]
    assert secrets_of({"A": "http://token@proxy:1", "B": "http://proxy"})[1:] == ["token"]
    assert secrets_of({"A": "me:word@proxy"})[1:] == ["word"]


def test_a_login_is_masked_in_what_a_build_prints():
    lines = [{"stream": "Step 1/2 : RUN pip"}, {"stream": f"cannot connect to {LOGIN} as me, correct-horse\n"}]
    with pytest.raises(EngineFailed) as failed:
        _follow([*lines, {"error": f"failed: {LOGIN}"}], lambda *_: None, secrets_of({"HTTPS_PROXY": LOGIN}))
    assert "correct-horse" not in str(failed.value) and "cannot connect to" in str(failed.value)


@pytest.mark.parametrize(
    ("line", "way"),
    [
        ("E: Unable to fetch: No space left on device", "docker system df"),
        ("SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] unable", "DIMBA_CA_CERT"),
        ("after connection broken by 'ProxyError('Cannot connect to proxy.'", "correct HTTP_PROXY"),
        ("Temporary failure resolving 'deb.debian.org': Temporary failure in name resolution", "HTTPS_PROXY=http"),
        ("NewConnectionError: Failed to establish a new connection: [Errno 111]", "HTTPS_PROXY=http"),
        ("SyntaxError: invalid syntax", "fix that step"),
    ],
)
def test_a_failed_build_names_its_cause(line: str, way: str):
    messages = [{"stream": "Step 1/2 : RUN x"}, {"stream": line}, {"error": "returned a non-zero code: 1"}]
    with pytest.raises(DimbaError) as failed:
        _follow(messages, lambda *_: None)
    assert way in failed.value.hint and line in failed.value.message


def test_the_plan_of_an_image_to_be_built_names_the_proxies():
    assert FACTS.image is not None
    to_build = replace(FACTS, image=replace(FACTS.image, id=None))
    assert "uses the proxies of this machine (HTTPS_PROXY)" in notes(here(to_build, "HTTPS_PROXY", "NO_PROXY"))
    assert notes(here(replace(FACTS, image=replace(FACTS.image, id="sha256:1")), "HTTPS_PROXY")) == ""
    assert notes(here(to_build, "NO_PROXY")) == "" and proxies_in(["no_proxy", "PATH"]) == []


def test_a_job_that_needs_the_hub_is_shown_how_to_get_the_proxy():
    facts = here(replace(HUB, image=replace(FACTS.image, id="sha256:1")), "HTTPS_PROXY", "NO_PROXY")  # type: ignore[type-var]
    hub = "dataset={name: owner/rows}"
    assert "`container: {env: [HTTPS_PROXY, NO_PROXY]}` passes it on" in notes(facts, hub)
    local = replace(facts, local_proxies=frozenset({"HTTPS_PROXY"}))
    assert "{env: [HTTPS_PROXY, NO_PROXY], network: host}" in notes(local, hub), "a bridge does not reach the loopback"
    assert notes(facts, hub, "container.env=[HTTPS_PROXY]") == ""
    configured = replace(facts, engine=replace(facts.engine, proxies=frozenset({"HTTPS_PROXY"})))
    assert notes(configured, hub) == "" and "configuration sets HTTPS_PROXY in the container" in all_notes(
        configured, hub
    )
    assert notes(replace(facts, data=FACTS.data)) == "", "a local job has no network"


def test_the_proxies_of_the_docker_clients_configuration_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    (tmp_path / "config.json").write_text(
        json.dumps(
            {"proxies": {"default": {"httpsProxy": "http://p:1"}, "unix:///other": {"httpProxy": "http://o:1"}}}
        ),
        encoding="utf-8",
    )
    assert configured_proxies("unix:///mine") == {"HTTPS_PROXY": "http://p:1", "https_proxy": "http://p:1"}
    assert set(configured_proxies("unix:///other")) == {"HTTP_PROXY", "http_proxy"}
