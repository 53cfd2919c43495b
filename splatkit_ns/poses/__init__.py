"""Camera poses of photographs, by COLMAP's Python package: from a folder or a video to a data set for ns-train."""
