"""What a GPU reaches, with models of published sizes and random weights: ``make bench-gpu``."""
