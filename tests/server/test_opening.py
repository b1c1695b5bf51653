"""The URLs of vLLM servers that run elsewhere: those that the bundle's grounder needs, or none."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.errors import BackendUnavailable
from server.opening import given_urls, open_engines
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


async def test_the_vision_runtime_has_the_threads_and_the_folder_that_are_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = list[tuple[object, ...]]()

    def opened(*options: object) -> None:
        asked.append(options)
        raise BackendUnavailable("none here")

    monkeypatch.setattr("server.opening.open_runtime", opened)
    urls = ("http://a",)
    settings = Settings(
        vision="torch", vision_threads=3, cache_dir=tmp_path, reason_url=urls, concentrate_url=urls
    )
    with pytest.raises(BackendUnavailable, match="none here"):
        async with open_engines(settings):
            pass
    assert asked == [("torch", settings.bundle / "vision", 3, tmp_path)]
