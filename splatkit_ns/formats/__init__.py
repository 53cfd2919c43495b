"""Files of Gaussians: one module a format, found by suffix; coordinate frames and the rotation of SH."""

from splatkit_ns.formats.gaussians import FormatError, Gaussians, SplatRenderMode
from splatkit_ns.formats.registry import (
    SplatFormat,
    all_formats,
    find_format,
    format_names,
    read,
    register,
    usable_format_names,
    write,
)

__all__ = [
    "FormatError",
    "Gaussians",
    "SplatFormat",
    "SplatRenderMode",
    "all_formats",
    "find_format",
    "format_names",
    "read",
    "register",
    "usable_format_names",
    "write",
]
