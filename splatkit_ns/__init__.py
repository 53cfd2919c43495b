"""Gaussian Splatting for nerfstudio, made of parts that people can swap."""
