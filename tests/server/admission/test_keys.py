"""API keys: entries and what is wrong with them, secrets that are only hashed, callers and their addresses."""

from __future__ import annotations

import hmac
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import HTTPConnection
from typer.testing import CliRunner

from server.admission import Callers, KeyRing, KeysInvalid, RateLimits
from server.admission.keys import digest_of, new_key, read_keys
from server.admission.limits import parse_limits
from server.cli import app
from server.errors import KEY_MISSING, KEY_UNKNOWN, RequestRejected

ANN, ANNS = new_key("ann", "5/minute")
BOB, BOBS = new_key("bob", priority="batch")


def ring(*entries: str) -> KeyRing:
    found = read_keys(None, "\n".join(entries))
    assert found is not None
    return found


def connection(
    headers: dict[str, str] | None = None, client: str = "1.2.3.4", offered: tuple[str, ...] = ()
) -> HTTPConnection:
    raw = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    scope: dict[str, Any] = {"type": "http", "headers": raw, "client": (client, 5), "subprotocols": offered}
    return HTTPConnection(scope)


def callers(*entries: str) -> Callers:
    return Callers(ring(*entries) if entries else None, parse_limits("9/second"), RateLimits())


def test_a_new_key_opens_the_door_and_its_secret_is_not_in_the_entry() -> None:
    found = ring(ANNS, "# a comment", f"{BOBS}  # bob's")
    ann, bob = found.find(ANN), found.find(BOB)
    assert ann is not None
    assert bob is not None
    assert (ann.name, ann.priority, ann.limits) == ("ann", "interactive", parse_limits("5/minute"))
    assert (bob.name, bob.priority, bob.limits) == ("bob", "batch", None)
    assert ANN not in ANNS
    assert len({new_key("x")[0] for _ in range(20)}) == 20


@pytest.mark.parametrize("secret", ["", "r2sm_", ANN[:-1], ANN + "x", ANN + "x" * 1000, digest_of(ANN).hex()])
def test_nothing_else_does(secret: str) -> None:
    assert ring(ANNS, BOBS).find(secret) is None


def test_every_entry_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def compare(left: bytes, right: bytes) -> bool:
        compared.append(left)
        return left == right

    monkeypatch.setattr(hmac, "compare_digest", compare)
    found = ring(ANNS, BOBS)
    for secret in (ANN, BOB, "neither"):
        found.find(secret)
    assert compared == [key.digest for key in found.keys] * 3


@pytest.mark.parametrize(
    ("entry", "wrong"),
    [
        ("ann", "hash"),
        ("ann:abc", "hash"),
        (ANN, "entry is"),
        (f"an n:{'0' * 64}", "hash"),
        (f"-:{'0' * 64}", "entry is"),
        (f"ann:{'0' * 64}:often", "limits"),
        (f"ann:{'0' * 64}:0/minute", "limits"),
        (f"ann:{'0' * 64}::urgent", "priority"),
        (f"ann:{'0' * 64}:1/second:batch:more", "entry is"),
        (f"{ANNS} ann:{'0' * 64}", "twice"),
        (f"{ANNS} {ANNS.replace('ann', 'bob')}", "two names"),
    ],
)
def test_a_wrong_entry_is_said_without_what_is_in_it(entry: str, wrong: str) -> None:
    with pytest.raises(KeysInvalid, match=wrong) as caught:
        ring(entry)
    assert ANN not in str(caught.value)
    assert "0000" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeysInvalid, match="none"):
        read_keys(tmp_path / "none.keys", None)


@pytest.mark.parametrize(
    "headers",
    [{"authorization": f"Bearer {ANN}"}, {"authorization": f"bearer  {ANN}"}, {"x-api-key": ANN}],
)
def test_both_headers_carry_a_key(headers: dict[str, str]) -> None:
    caller = callers(ANNS, BOBS).identify(connection(headers))
    assert (caller.name, caller.identity, caller.priority) == ("ann", "key:ann", "interactive")


def test_a_browser_offers_its_key_as_a_subprotocol() -> None:
    caller = callers(ANNS).identify(connection(offered=("r2sm.v1", f"r2sm.key.{ANN}")))
    assert caller.name == "ann"


@pytest.mark.parametrize(
    ("headers", "kind"),
    [
        ({}, KEY_MISSING),
        ({"authorization": f"Basic {ANN}"}, KEY_MISSING),
        ({"authorization": "Bearer "}, KEY_MISSING),
        ({"authorization": "Bearer nobody"}, KEY_UNKNOWN),
        ({"authorization": f"Bearer {ANN}", "x-api-key": BOB}, KEY_UNKNOWN),
    ],
)
def test_who_shows_none_or_a_wrong_one_is_refused(headers: dict[str, str], kind: object) -> None:
    with pytest.raises(RequestRejected) as caught:
        callers(ANNS, BOBS).identify(connection(headers))
    assert caught.value.kind is kind


def test_the_header_sets_the_priority_and_the_key_its_default() -> None:
    known = callers(ANNS, BOBS)
    shown, asked = {"x-api-key": BOB}, {"x-r2sm-priority": "interactive"}
    assert known.identify(connection(shown)).priority == "batch"
    assert known.identify(connection({**shown, **asked})).priority == "interactive"
    with pytest.raises(RequestRejected, match="must be interactive or batch"):
        known.identify(connection({**shown, "x-r2sm-priority": "now"}))


@pytest.mark.parametrize(
    ("client", "identity"),
    [
        ("1.2.3.4", "address:1.2.3.4"),
        ("::ffff:1.2.3.4", "address:1.2.3.4"),
        ("2001:db8::1", "address:2001:db8::/64"),
        ("2001:db8::ffff:1", "address:2001:db8::/64"),
        ("", "address:unknown"),
    ],
)
def test_without_keys_callers_are_known_by_their_addresses_only(client: str, identity: str) -> None:
    caller = callers().identify(connection({"authorization": "Bearer whatever"}, client))
    assert (caller.name, caller.identity) == ("anonymous", identity)


def test_the_command_makes_a_key_and_the_line_for_the_file(tmp_path: Path) -> None:
    made = CliRunner().invoke(app, ["keys", "new", "ann", "--limits", "60/minute", "--priority", "batch"])
    assert made.exit_code == 0
    secret, entry = made.stdout.split()
    (tmp_path / "keys").write_text(entry)
    found = read_keys(tmp_path / "keys", None)
    assert found is not None
    key = found.find(secret)
    assert key is not None
    assert key.priority == "batch"
    more = CliRunner().invoke(app, ["keys", "new", "bob", "--file", str(tmp_path / "keys")])
    found = read_keys(tmp_path / "keys", None)
    assert found is not None
    assert [key.name for key in found.keys] == ["ann", "bob"]
    assert found.find(more.stdout.strip()) is not None
    wrong = CliRunner().invoke(app, ["keys", "new", "no name"])
    assert wrong.exit_code == 2


def test_a_key_that_cannot_be_kept_is_not_shown(tmp_path: Path) -> None:
    file, faulty = tmp_path / "keys", tmp_path / "faulty"
    file.write_text(ANNS)
    faulty.write_text("bob:abc")
    for name, place, code, said in (
        ("ann", file, 2, f'{file} has a key "ann" already'),
        ("ann", faulty, 2, f'{faulty}, line 1: the hash of "bob"'),
        ("ann", tmp_path / "none/keys", 1, f"{tmp_path}/none/keys cannot be written: No such file"),
    ):
        result = CliRunner().invoke(app, ["keys", "new", name, "--file", str(place)])
        assert (result.exit_code, result.stdout) == (code, "")
        assert result.stderr.startswith(f"r2sm: {said}")
    assert (file.read_text(), faulty.read_text()) == (ANNS, "bob:abc")
