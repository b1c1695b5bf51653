"""What every test shares: hypothesis without deadlines, because the cores are shared."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("shared_cores", deadline=None, max_examples=50)
settings.load_profile("shared_cores")
