"""Rasterization on the CPU: numba kernels and their torch wiring. Importing this imports numba."""
