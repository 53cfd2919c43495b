"""The scene of `make demo`: meshes, textures computed from the surface position, and a small ray caster.

Lengths are in scene units (the table's radius is 1.5), z is up. Colours are linear RGB in [0, 1] until stored.
"""
