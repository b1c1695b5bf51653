"""Which vLLM servers a bundle is served by, and what memory they take: with a tap one less."""

from __future__ import annotations

import pytest

from engines.bundles import Bundle
from engines.bundles.requirements import requirements
from engines.errors import BackendUnavailable
from server.fitting import Machine, misfits, wanted_roles
from server.settings import DEMO_BUNDLE, Settings

TAPPED = Settings(concentrate="tap")


def test_a_tap_saves_the_second_server_where_there_is_one() -> None:
    demo = Bundle.load(DEMO_BUNDLE)
    assert wanted_roles(Settings(), demo) == ("reason", "concentrate")
    assert wanted_roles(TAPPED, demo) == ("reason",)


@pytest.mark.parametrize("roles", [("reason",), ("concentrate",)])
def test_where_there_is_none_it_is_said(monkeypatch: pytest.MonkeyPatch, roles: tuple[str, ...]) -> None:
    monkeypatch.setattr(Bundle, "roles", roles)
    with pytest.raises(BackendUnavailable, match=r"concentrate=tap: .* has no second server"):
        wanted_roles(TAPPED, Bundle.load(DEMO_BUNDLE))
    assert "no second server" in misfits(TAPPED, Machine("large", 1, 1 << 40))[0]


def test_a_tapped_model_fits_where_two_copies_of_it_do_not() -> None:
    needs = requirements(Bundle.load(DEMO_BUNDLE))
    narrow = Machine("narrow", 1, needs.least() - needs.server() // 2)
    assert misfits(Settings(), narrow)
    assert misfits(TAPPED, narrow) == []
