"""What serving a bundle takes: bytes of weights and KV cache, and over how many devices it can be spread."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from engines.bundles.bundle import Bundle
from engines.bundles.checks import read_json, read_shapes
from engines.bundles.manifest import MLLM, VISION
from engines.errors import BundleError
from engines.vision.config import WEIGHTS_FILE

SERVED_BYTES = 2  # of a number of the language model, which runs in bfloat16
VISION_BYTES = 4  # of one of the vision model
WORDS = 1024  # tokens for a prompt and the text around it
MOST_DEVICES = 16
NAMED_SIZES = ("num_attention_heads", "hidden_size", "num_hidden_layers")


@dataclass(frozen=True, slots=True)
class Requirements:
    """Bytes, of one vLLM server unless said otherwise; activations and libraries come on top of them.

    `kv_token` is the KV cache of one token; `tokens` are in the longest request: the largest image, a long prompt and
    all the reasoning. `servers` is how many vLLM servers the grounder needs, `parallel` the tensor-parallel sizes that
    divide the language model's heads.
    """

    language: int
    vision: int
    kv_token: int
    tokens: int
    servers: int
    parallel: tuple[int, ...]

    def server(self, devices: int = 1) -> int:
        """Bytes of one server on each of so many devices that it is spread over, for one request at a time."""
        return (self.language + self.kv_token * self.tokens) // devices

    def least(self, devices: int = 1) -> int:
        """Bytes on each of so many devices that every server is spread over, with the vision model."""
        return self.server(devices) * self.servers + self.vision


def requirements(bundle: Bundle) -> Requirements:
    """Counted from the headers of the weights and the configuration. Raises BundleError if one cannot be read."""
    files = sorted((bundle.path / MLLM).glob("*.safetensors"))
    numbers = sum(prod(shape) for file in files for shape in read_shapes(file).values())
    seen = sum(prod(shape) for shape in read_shapes(bundle.path / VISION / WEIGHTS_FILE).values())
    config = read_json(bundle.mllm_path / "config.json")
    text, sight = config.get("text_config", config), config.get("vision_config", {})
    if missing := [name for name in NAMED_SIZES if name not in text]:
        raise BundleError(f"{bundle.mllm_path / 'config.json'}: {missing[0]} is missing")
    heads = text["num_attention_heads"]
    shared = text.get("num_key_value_heads", heads)
    width = text.get("head_dim") or text["hidden_size"] // heads
    image = bundle.mllm_image
    return Requirements(
        language=numbers * SERVED_BYTES,
        vision=seen * VISION_BYTES,
        kv_token=2 * text["num_hidden_layers"] * shared * width * SERVED_BYTES,
        tokens=image.max_pixels // image.factor**2 + WORDS + bundle.answer.budget("full"),
        servers=len(bundle.roles),
        parallel=tuple(
            size
            for size in range(1, MOST_DEVICES + 1)
            if heads % size == 0
            and (shared % size == 0 or size % shared == 0)
            and sight.get("num_heads", size) % size == 0
        ),
    )
