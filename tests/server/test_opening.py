"""What is opened for the settings: the vLLM servers that run elsewhere or here, and who runs the image tower."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.bundles import Bundle
from engines.errors import BackendUnavailable
from server.opening import given_urls, open_engines, sees_here
from server.settings import Settings
from tests.tiny_bundle import build_tiny_bundle


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


@pytest.fixture(scope="module")
def demo() -> Bundle:
    return Bundle.load(Settings().bundle)


@pytest.fixture(scope="module")
def windowed(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle whose image tower looks through windows, as the published ones do."""
    return Bundle.load(build_tiny_bundle(tmp_path_factory.mktemp("windowed")))


@pytest.mark.parametrize(("device", "seen"), [("cpu", True), ("cuda", False)])
def test_the_gateway_sees_for_servers_that_it_starts_on_a_cpu(
    device: str, seen: bool, demo: Bundle, windowed: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.opening.installed_device", lambda: device)
    assert sees_here(Settings(), demo, launches=True) is seen
    assert not sees_here(Settings(), demo, launches=False)
    assert not sees_here(Settings(), windowed, launches=True)


def test_who_sees_can_be_said(demo: Bundle, windowed: Bundle) -> None:
    assert sees_here(Settings(image_tower="gateway"), demo, launches=False)
    assert not sees_here(Settings(image_tower="vllm"), demo, launches=True)
    with pytest.raises(BackendUnavailable, match=r"image_tower=gateway .* unlike that of tiny"):
        sees_here(Settings(image_tower="gateway"), windowed, launches=True)


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
