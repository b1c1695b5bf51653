"""Vision engine: from pixels and concentration vectors to heatmaps, masks and RLE."""
