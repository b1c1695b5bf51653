"""Importers: published checkpoints, as their authors ship them, made into bundles."""
