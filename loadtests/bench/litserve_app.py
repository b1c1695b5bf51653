"""The reference behind LitServe with its batching: ``python -m loadtests.bench.litserve_app BUNDLE PORT``."""

# No `from __future__ import annotations`: LitServe makes its response model of what `encode_response` returns.

import base64
import sys
from pathlib import Path

import litserve
import litserve.server

from engines.events import Rle
from loadtests.bench.reference import Reference

BATCH, WAIT_SECONDS = 16, 0.01
SECONDS = 600

Asked = tuple[bytes, str]


class Segmenting(litserve.LitAPI):  # type: ignore[misc]  # LitServe has no types
    """One worker with the models; requests that wait are answered as a batch."""

    bundle: Path

    def setup(self, device: str) -> None:
        self.reference = Reference(self.bundle)

    def decode_request(self, request: dict[str, str]) -> Asked:
        return base64.b64decode(request["image"]), request["prompt"]

    def batch(self, inputs: list[Asked]) -> list[Asked]:
        return list(inputs)

    def predict(self, asked: list[Asked]) -> list[list[Rle]]:
        return self.reference.segment([image for image, _ in asked], [prompt for _, prompt in asked])

    def unbatch(self, output: list[list[Rle]]) -> list[list[Rle]]:
        return output

    def encode_response(self, output: list[Rle]) -> dict[str, list[Rle]]:
        return {"masks": output}


def main() -> None:
    """Serve until SIGTERM."""
    api = Segmenting(max_batch_size=BATCH, batch_timeout=WAIT_SECONDS, api_path="/segment")
    api.bundle = Path(sys.argv[1])
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, timeout=SECONDS)
    litserve.server._MCP_AVAILABLE = (
        False  # it finds vLLM's `mcp`, but its connector needs `fastmcp` beside it
    )
    server.run(host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", generate_client_file=False)


if __name__ == "__main__":
    main()
