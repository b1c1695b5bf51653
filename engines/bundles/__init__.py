"""Bundles: directories with everything one served model needs, checked when they are loaded."""

from __future__ import annotations

from engines.bundles.bundle import Bundle
from engines.bundles.digests import HashProgress
from engines.bundles.manifest import Manifest, write_manifest

__all__ = ["Bundle", "HashProgress", "Manifest", "write_manifest"]
