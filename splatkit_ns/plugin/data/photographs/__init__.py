"""Photographs, their masks and their lenses: out of files, undistorted, and as renders are compared with them."""
