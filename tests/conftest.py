"""What every test shares: real vLLM servers on demand; hypothesis without deadlines, as cores may be busy."""

from __future__ import annotations

import os

from hypothesis import settings

pytest_plugins = ["tests.vllm_fixture"]

os.environ.setdefault(
    "R2SM_LOG_FORMAT", "text"
)  # gateways that tests start as processes are read as people read
settings.register_profile("shared_cores", deadline=None, max_examples=50)
settings.load_profile("shared_cores")
