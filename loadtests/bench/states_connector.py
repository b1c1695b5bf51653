"""A KV connector that sends the hidden states of an answer's last tokens, as it ends, to a Unix datagram socket.

Runs within vLLM's engine, beside ``extract_hidden_states``, which keeps the states in a cache of their own. A request
names in ``kv_transfer_params`` the tag under which its states are to be sent; for one without a tag none are.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    SupportsHMA,
)

from loadtests.bench.states_inbox import SOCKET, TAG, TAG_BYTES

LAYER = "cache_only_layers."
"""What the layer that keeps the states has in its name."""
TOKENS = 12
"""So many states are sent, the last that were computed: the reasoning's end, a decision, eight references, two more."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request that has ended, and where in the cache the states of its last tokens are."""

    request: str
    tag: str
    slots: list[int]


@dataclass
class StatesMetadata(KVConnectorMetadata):  # type: ignore[misc]
    """From the scheduler's half to the worker's."""

    wanted: list[Wanted] = field(default_factory=list)


class StatesConnector(KVConnectorBase_V1, SupportsHMA):  # type: ignore[misc]
    """vLLM's interface, version 1: one half plans within the scheduler, another sends within the worker."""

    def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any) -> None:
        super().__init__(vllm_config=vllm_config, role=role, kv_cache_config=kv_cache_config)
        groups = kv_cache_config.kv_cache_groups
        [self._group] = [
            i for i, group in enumerate(groups) if any(LAYER in name for name in group.layer_names)
        ]
        self._block: int = groups[self._group].kv_cache_spec.block_size
        self._address: str = self._kv_transfer_config.get_from_extra_config(SOCKET, "")
        self._ended: list[Wanted] = []
        self._cache = torch.empty(0)
        self._line = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    def request_finished_all_groups(
        self, request: Any, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        """Keep the blocks of a request whose states are wanted until they have been sent."""
        given: Mapping[str, Any] = request.kv_transfer_params or {}
        computed = len(request.all_token_ids) - 1  # nothing has been computed of the last: it ends the answer
        if TAG not in given or computed < 1 or self._group >= len(block_ids):
            return False, None
        blocks = block_ids[self._group]
        places = range(max(0, computed - TOKENS), computed)
        slots = [blocks[place // self._block] * self._block + place % self._block for place in places]
        self._ended.append(Wanted(request.request_id, str(given[TAG]), slots))
        return True, None

    def build_connector_meta(self, scheduler_output: Any) -> StatesMetadata:
        ended, self._ended = self._ended, []
        return StatesMetadata(ended)

    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        [self._cache] = [cache for name, cache in kv_caches.items() if LAYER in name]

    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str] | None, set[str] | None]:
        """Send what is wanted; its blocks may be freed then."""
        wanted = self._get_connector_metadata().wanted if self.has_connector_metadata() else []
        for one in wanted:
            slots = torch.tensor(one.slots)
            states = self._cache[slots // self._block, 0, slots % self._block].float().cpu().contiguous()
            self._line.sendto(one.tag.encode().ljust(TAG_BYTES) + states.numpy().tobytes(), self._address)
        return {one.request for one in wanted} or None, None

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None: ...

    def wait_for_layer_load(self, layer_name: str) -> None: ...

    def save_kv_layer(self, layer_name: str, kv_layer: Any, attn_metadata: Any, **kwargs: Any) -> None: ...

    def wait_for_save(self) -> None: ...

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int, bool]:
        return 0, False

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None: ...
