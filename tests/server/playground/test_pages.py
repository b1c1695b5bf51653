"""What the pages' server part answers: headers, entity tags, samples, problems."""

from __future__ import annotations

import io
import re

import pytest
from PIL import Image

from tests.server.conftest import Gateway

PATHS = ["/", "/docs", "/static/base.css", "/static/js/main.js", "/static/icon.svg", "/samples/modal.png"]


@pytest.mark.parametrize("path", PATHS)
async def test_pages_may_run_nothing_from_elsewhere_and_are_not_sent_twice(
    gateway: Gateway, path: str
) -> None:
    response = await gateway.client.get(path)
    assert response.status_code == 200
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert response.headers["x-content-type-options"] == "nosniff"
    again = await gateway.client.get(path, headers={"if-none-match": response.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


async def test_nothing_can_be_asked_before_the_scripts_are_there(gateway: Gateway) -> None:
    page = (await gateway.client.get("/")).text
    [button] = re.findall(r"<button[^>]* id=\"run\"[^>]*>", page)
    assert "disabled" in button, "the browser would send the form itself"


async def test_scripts_have_the_type_that_browsers_insist_on(gateway: Gateway) -> None:
    response = await gateway.client.get("/static/js/main.js")
    assert response.headers["content-type"].startswith("text/javascript")
    assert response.headers["cache-control"] == "no-cache"


async def test_every_sample_is_a_picture(gateway: Gateway) -> None:
    listed = (await gateway.client.get("/samples")).json()
    assert [sample["name"] for sample in listed] == ["modal", "amodal", "both"]
    for sample in listed:
        picture = await gateway.client.get(sample["url"])
        assert Image.open(io.BytesIO(picture.content)).size >= (160, 160)
        assert sample["prompt"]


@pytest.mark.parametrize(
    "path", ["/samples/0.png", "/samples/../x.png", "/static/", "/static/%2e%2e/app.py", "/static/js/none.js"]
)
async def test_nothing_else_is_served(gateway: Gateway, path: str) -> None:
    response = await gateway.client.get(path)
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("path", ["/", "/docs", "/static/base.css", "/samples"])
async def test_pages_take_no_posts(gateway: Gateway, path: str) -> None:
    assert (await gateway.client.post(path)).status_code == 405


async def test_a_wrong_method_is_told_all_the_right_ones(gateway: Gateway) -> None:
    response = await gateway.client.put("/v1/images/x")
    assert (response.status_code, response.headers["allow"]) == (405, "DELETE, GET, HEAD")
