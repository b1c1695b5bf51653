"""Every HTTP operation, asked by schemathesis on a gateway with stand-in engines: no 500, nothing undocumented."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, Phase, settings
from schemathesis import CheckFunction
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from engines.vision.runtimes.torch_cpu import TorchRuntime
from server.app import create_app
from server.services import open_services
from server.settings import Settings
from tests.server.conftest import photo
from tests.server.stand_in_engines import stand_in_engines
from tests.stand_ins import FaultyVision, ScriptedMllm

PHOTO = photo((64, 48))
NOT_ASKED: list[CheckFunction] = [
    not_a_server_error,  # 504 is the right answer to a deadline of a millisecond; 500 is asserted against below
    positive_data_acceptance,  # no schema can say that a prompt must not be blank, or that a host is allowed
    negative_data_rejection,  # a query string that nobody reads is not refused
]
FEW = settings(
    max_examples=12,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def url(runtime: TorchRuntime) -> Iterator[str]:
    """A gateway on a thread of its own, as schemathesis does not wait for event loops."""
    engines = stand_in_engines(ScriptedMllm(), FaultyVision(runtime))
    app = create_app(lambda: open_services(engines, Settings()))
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def known(url: str) -> str:
    """The id of an image that the gateway has."""
    headers = {"content-type": "image/png"}
    return str(httpx.post(f"{url}/v1/images", content=PHOTO, headers=headers).json()["id"])


def _never() -> Any:
    raise AssertionError("nothing is started to describe the interface")


interface = schemathesis.openapi.from_dict(create_app(_never).openapi())


@interface.parametrize()
@FEW
def test_every_answer_is_as_documented(case: schemathesis.Case[Any], url: str, known: str) -> None:
    _show_a_real_image(case.body, known)
    if case.method in ("GET", "HEAD") and "id" in case.path_parameters:
        case.path_parameters["id"] = known
    response = case.call(base_url=url, timeout=60)
    assert response.status_code != 500
    case.validate_response(response, excluded_checks=NOT_ASKED)


def _show_a_real_image(body: Any, known: str) -> None:
    """An id or data that are no more than well-formed would be all that is ever tried."""
    image = body.get("image") if isinstance(body, dict) else None
    if isinstance(image, dict) and isinstance(image.get("id"), str):
        image["id"] = known
    if isinstance(image, dict) and isinstance(image.get("data"), str):
        image["data"] = base64.b64encode(PHOTO).decode("ascii")
