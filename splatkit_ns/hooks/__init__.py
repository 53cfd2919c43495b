"""Hooks and writers, chosen by name: an adapter over the modules' events."""

from splatkit_ns.hooks.adapter import HookModule
from splatkit_ns.hooks.base import HOOK_REGISTRY, Hook, parse_hooks
from splatkit_ns.hooks.checkpoint import CheckPointHook
from splatkit_ns.hooks.log import LogHook
from splatkit_ns.hooks.view import TrainerView
from splatkit_ns.hooks.writers import WRITER_REGISTRY, JsonLinesWriter, TensorboardWriter, Writer, open_writers

__all__ = [
    "HOOK_REGISTRY",
    "WRITER_REGISTRY",
    "CheckPointHook",
    "Hook",
    "HookModule",
    "JsonLinesWriter",
    "LogHook",
    "TensorboardWriter",
    "TrainerView",
    "Writer",
    "open_writers",
    "parse_hooks",
]
