"""The URLs of vLLM servers that run elsewhere: those that the bundle's grounder needs, or none."""

from __future__ import annotations

import pytest

from engines.errors import BackendUnavailable
from server.opening import given_urls
from server.settings import Settings


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


@pytest.mark.parametrize("elsewhere", ["reason_url", "concentrate_url"])
def test_what_runs_elsewhere_is_not_tapped(elsewhere: str) -> None:
    with pytest.raises(ValueError, match="only a vLLM server that is started here can be tapped"):
        Settings.model_validate({"concentrate": "tap", elsewhere: ("http://a",)})
