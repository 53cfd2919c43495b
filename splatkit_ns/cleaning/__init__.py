"""The selection of Gaussians that a scene can do without: by rules for each, and by weight in the photographs."""
