"""The decoder, its costs, its folder on disk, and generation."""
