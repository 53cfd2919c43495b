"""Which Gaussians a scene can do without: rules for single Gaussians, and their weight in photographs."""
