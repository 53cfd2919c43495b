"""Triangle meshes from trained Gaussians: rendered depth images, fused into one surface."""
