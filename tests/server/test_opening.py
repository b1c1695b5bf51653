"""Which vLLM servers there are: elsewhere, those that the bundle's grounder needs, or none; here, tapped or not."""

from __future__ import annotations

import pytest

from engines.bundles import Bundle
from engines.errors import BackendUnavailable
from server.opening import given_urls, wanted_roles
from server.settings import DEMO_BUNDLE, Settings


def test_a_grounder_needs_the_urls_of_its_roles() -> None:
    reason = Settings(reason_url=("http://a",))
    assert given_urls(reason, ("reason",)) == {"reason": ("http://a",)}
    assert given_urls(Settings(), ("reason", "concentrate")) == {}
    both = Settings(reason_url=("http://a",), concentrate_url=("http://b",))
    assert given_urls(both, ("reason", "concentrate")) == {
        "reason": ("http://a",),
        "concentrate": ("http://b",),
    }


def test_a_url_that_is_missing_is_named() -> None:
    with pytest.raises(BackendUnavailable, match=r"concentrate_url is not set: .* reason, concentrate"):
        given_urls(Settings(reason_url=("http://a",)), ("reason", "concentrate"))


def test_a_tap_saves_the_second_server_where_there_is_one() -> None:
    demo = Bundle.load(DEMO_BUNDLE)
    assert wanted_roles(Settings(), demo) == ("reason", "concentrate")
    assert wanted_roles(Settings(concentrate="tap"), demo) == ("reason",)


@pytest.mark.parametrize("roles", [("reason",), ("concentrate",)])
def test_where_there_is_none_it_is_said(monkeypatch: pytest.MonkeyPatch, roles: tuple[str, ...]) -> None:
    monkeypatch.setattr(Bundle, "roles", roles)
    with pytest.raises(BackendUnavailable, match=r"concentrate=tap: .* has no second server"):
        wanted_roles(Settings(concentrate="tap"), Bundle.load(DEMO_BUNDLE))


@pytest.mark.parametrize("elsewhere", ["reason_url", "concentrate_url"])
def test_what_runs_elsewhere_is_not_tapped(elsewhere: str) -> None:
    with pytest.raises(ValueError, match="only a vLLM server that is started here can be tapped"):
        Settings.model_validate({"concentrate": "tap", elsewhere: ("http://a",)})
