"""What every test shares: a real vLLM and a real Redis on demand; no deadlines in hypothesis, as cores may be busy."""

from __future__ import annotations

from hypothesis import settings

pytest_plugins = ["tests.vllm_fixture", "tests.redis_fixture"]

settings.register_profile("shared_cores", deadline=None, max_examples=50)
settings.load_profile("shared_cores")
