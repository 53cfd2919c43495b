"""Writers: the outputs of scalars, images and the run's settings."""

from splatkit_ns.hooks.writers.base import WRITER_REGISTRY, Writer, Writers, open_writers
from splatkit_ns.hooks.writers.json_lines import JsonLinesWriter
from splatkit_ns.hooks.writers.tensorboard import TensorboardWriter

__all__ = ["WRITER_REGISTRY", "JsonLinesWriter", "TensorboardWriter", "Writer", "Writers", "open_writers"]
