"""The suffixes of pictures and videos, in small letters."""

PICTURES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".tif", ".tiff", ".bmp", ".webp", ".avif", ".jp2", ".heic",
    ".heif",
)  # fmt: skip
"""Pictures that Pillow reads; HEIC needs the package pillow-heif."""
CAMERA_RAW = (".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2", ".pef", ".srw")
VIDEOS = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mts", ".m2ts", ".3gp", ".mpg", ".mpeg", ".wmv")
