"""Images, cameras and seed points that nerfstudio reads, checked and converted to our shapes."""
