"""Every answer of the network, late and missing ones too, has a status, and the token goes only to the Hub."""

import socket
import threading
import time
from contextlib import suppress

import pytest

from dimba.host import http
from dimba.host.hub import look_at_dataset, look_at_model
from tests.hub import TOKEN, Reply, at, scripted


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        ((401, {}, {}), "missing"),
        ((404, {"X-Error-Code": "RepoNotFound"}, {}), "missing"),
        ((401, {"X-Error-Code": "GatedRepo"}, {}), "gated"),
        ((403, {}, {}), "gated"),
        ((500, {}, {}), "unreachable"),
        ((429, {}, {}), "unreachable"),
        ((204, {}, b""), "unreachable"),
        ((302, {"Location": "/api/models/some/model"}, {}), "unreachable"),
        ((302, {"Location": "file:///etc/passwd"}, {}), "unreachable"),
        ((200, {"Content-Length": "9999"}, b'{"id": "some/mo'), "unreachable"),
        ((200, {"Content-Type": "text/html"}, b"<html>sign in to the network</html>"), "unreachable"),
        ((200, {}, b"\xff\xfe"), "unreachable"),
        ((200, {}, b"[" * 100_000), "unreachable"),
        ((200, {}, []), "unreachable"),
    ],
)
def test_each_answer_has_its_status(reply: Reply, status: str, monkeypatch: pytest.MonkeyPatch):
    with scripted({f"/api/{kind}/some/model": reply for kind in ("models", "datasets")}) as (address, _):
        at(address, monkeypatch)
        for found in (look_at_model("some/model"), look_at_dataset("some/model")):
            assert found.status == status and found.why
            assert status != "unreachable" or found.why.startswith("the Hub did not answer: ")


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"])
@pytest.mark.parametrize("value", ["1", "true", "YES", "On"])
def test_offline_no_request_is_sent(name: str, value: str, monkeypatch: pytest.MonkeyPatch):
    with scripted({}) as (address, seen):
        at(address, monkeypatch)
        monkeypatch.setenv(name, value)
        assert look_at_model("some/model").status == look_at_dataset("some/data").status == "offline"
        assert seen == []
        monkeypatch.setenv(name, "0")
        assert look_at_model("some/model").status == "missing"


@pytest.mark.parametrize("name", ["", " ", "/", "a/", "..", "../datasets", "a/b/c", "a/\n", "a/\udc80"])
def test_an_invalid_id_is_missing_and_not_requested(name: str, monkeypatch: pytest.MonkeyPatch):
    with scripted({}) as (address, seen):
        at(address, monkeypatch)
        assert look_at_model(name).status == look_at_dataset(name, "\udc80").status == "missing"
        assert seen == []


def test_ids_are_quoted_in_urls(monkeypatch: pytest.MonkeyPatch):
    with scripted({}) as (address, seen):
        at(address, monkeypatch)
        look_at_model("some one/mo?del#é")
    assert seen == [("/api/models/some%20one/mo%3Fdel%23%C3%A9", None)]


def test_the_token_is_sent_only_after_a_refusal_and_never_to_a_redirect(monkeypatch: pytest.MonkeyPatch):
    # Another port is another host: the target of the redirect receives no token, whatever it answers.
    with scripted({}) as (elsewhere, seen_elsewhere):
        replies: dict[str, Reply] = {"/api/models/some/model": (302, {"Location": f"{elsewhere}/there"}, {})}
        with scripted(replies) as (address, seen):
            at(address, monkeypatch, token=TOKEN)
            found = look_at_model("some/model")
    assert [authorization for _, authorization in seen] == [None, f"Bearer {TOKEN}"]
    assert seen_elsewhere == [("/there", None)] * 2
    assert found.status == "missing" and TOKEN not in repr(found)


@pytest.mark.parametrize("token", ["hf_first\nX-Injected: 1", "hf_ä", "hf one"])
def test_a_malformed_token_is_neither_sent_nor_shown(token: str, monkeypatch: pytest.MonkeyPatch):
    with scripted({}) as (address, seen):
        at(address, monkeypatch, token=token)
        found = look_at_model("some/model")
    assert [authorization for _, authorization in seen] == [None]
    assert found.status == "missing" and "hf" not in found.why


def test_a_silent_server_is_unreachable_after_the_timeout(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(http, "TIMEOUT", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        at(f"http://127.0.0.1:{silent.getsockname()[1]}", monkeypatch)
        began = time.monotonic()
        found = look_at_model("some/model")
    assert found.status == "unreachable" and time.monotonic() - began < 2


def test_a_slow_resolver_is_unreachable_after_the_timeout(monkeypatch: pytest.MonkeyPatch):
    over = threading.Event()

    def resolve(*_args: object, **_options: object) -> None:
        over.wait(10)
        raise socket.gaierror("no such name")

    monkeypatch.setattr(http, "TIMEOUT", 0.3)
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    at("http://hub.invalid", monkeypatch)
    began = time.monotonic()
    found = look_at_dataset("some/data")
    assert found.status == "unreachable" and time.monotonic() - began < 2
    over.set()


def test_a_server_that_sends_single_bytes_is_unreachable_after_the_timeout(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(http, "TIMEOUT", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_drip, args=(server,), daemon=True).start()
        at(f"http://127.0.0.1:{server.getsockname()[1]}", monkeypatch)
        began = time.monotonic()
        found = look_at_model("some/model")
        assert found.status == "unreachable" and time.monotonic() - began < 2


def _drip(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection, suppress(OSError):
        connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
        for _ in range(40):
            connection.sendall(b" ")
            time.sleep(0.1)


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:1", "http://hub.invalid", "nowhere", "http://", "http://a b", "http://127.0.0.1:x"]
)
def test_an_address_without_a_server_is_unreachable(address: str, monkeypatch: pytest.MonkeyPatch):
    at(address, monkeypatch)
    for found in (look_at_model("some/model"), look_at_dataset("some/data")):
        assert found.status == "unreachable" and found.why.startswith("the Hub did not answer: ")
