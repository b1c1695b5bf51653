"""The choice of a server: affinity first, but never a server that is clearly busier than another."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from engines.mllm.routing.choice import choose


@dataclass(frozen=True)
class Server:
    url: str
    outstanding: int = 0


images = st.text(min_size=1, max_size=20)
servers = st.lists(
    st.builds(Server, st.integers(0, 99).map("http://{}".format), st.integers(0, 60)),
    min_size=1,
    max_size=6,
    unique_by=lambda server: server.url,
)


def idle(servers: list[Server]) -> list[Server]:
    return [Server(server.url) for server in servers]


@given(servers, images)
def test_nobody_is_chosen_who_is_clearly_busier(servers: list[Server], image: str) -> None:
    least = min(server.outstanding for server in servers)
    assert choose(servers, image).outstanding <= least + 2 + least / 4


@given(servers, images)
def test_the_affine_server_is_left_only_when_it_is_clearly_busier(servers: list[Server], image: str) -> None:
    affine, chosen = choose(idle(servers), image), choose(servers, image)
    if chosen.url != affine.url:
        load = next(server.outstanding for server in servers if server.url == affine.url)
        assert load > 2 + 1.25 * min(server.outstanding for server in servers)


@given(servers, images, st.randoms())
def test_the_order_of_the_list_means_nothing(servers: list[Server], image: str, random: object) -> None:
    shuffled = list(servers)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert choose(shuffled, image) == choose(servers, image)


@given(servers, images, st.data())
def test_a_server_that_goes_moves_no_image_but_its_own(
    servers: list[Server], image: str, data: st.DataObject
) -> None:
    every = idle(servers)
    affine = choose(every, image)
    gone = data.draw(st.sampled_from(every))
    left = [server for server in every if server != gone]
    if left and gone != affine:
        assert choose(left, image) == affine


def test_images_spread_over_the_servers() -> None:
    servers = [Server(f"http://10.0.0.{n}:8000") for n in range(4)]
    counts = Counter(choose(servers, f"sha256:{n}").url for n in range(4000))
    assert len(counts) == 4
    assert min(counts.values()) > 850
    assert max(counts.values()) < 1150


def test_a_hot_image_fills_its_servers_in_its_own_order() -> None:
    """So that the second server it goes to is always the same one, whose caches then know it too."""
    load = dict.fromkeys([f"http://{n}" for n in range(3)], 0)
    seen = []
    for _ in range(30):
        chosen = choose([Server(url, count) for url, count in load.items()], "sha256:hot").url
        load[chosen] += 1
        seen.append(chosen)
    first, second, third = dict.fromkeys(seen)
    assert seen[:4] == [first, first, first, second]
    assert max(load.values()) - min(load.values()) <= 6
    assert load[first] >= load[second] >= load[third] > 0
