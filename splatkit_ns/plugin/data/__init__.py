"""Images, cameras and seed points as nerfstudio reads them, checked and brought into our shapes."""
