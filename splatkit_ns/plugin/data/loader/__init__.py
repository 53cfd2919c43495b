"""Photographs as the steps take them: read, kept as far as memory allows, or read ahead of their use."""
