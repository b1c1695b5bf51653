"""Programs that load a gateway."""
