"""``splatkit train``: reads the arguments of ``ns-train`` for one method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tyro

from splatkit_ns.errors import SplatkitError
from splatkit_ns.methods import MethodSpecification, find_method, registered_methods
from splatkit_ns.plugin.ns_train import train
from splatkit_ns.plugin.trainer import SplatkitTrainerConfig


def run(arguments: Sequence[str]) -> None:
    """Train as ``ns-train`` does.

    Args:
        arguments: those of ``ns-train``.

    Raises:
        SplatkitError: there is no such method, or the training fails because of a mistake of the user.
        SystemExit: the arguments do not parse, or the training has been stopped.
    """
    train(read_arguments(arguments))


def read_arguments(arguments: Sequence[str]) -> SplatkitTrainerConfig:
    """The config that the arguments of ``ns-train`` describe; without a method, the methods are listed.

    Raises:
        SplatkitError: there is no such method.
        SystemExit: the arguments do not parse, or ask for help.
    """
    if arguments and not arguments[0].startswith("-"):
        methods = {arguments[0]: _ours(arguments[0])}
    else:
        methods = {name: method for name, method in sorted(registered_methods().items()) if _is_ours(method)}
    tyro.extras.set_accent_color("bright_yellow")
    return tyro.cli(
        _type_of(methods), prog="splatkit train", description="Train a scene as ns-train does.", args=arguments
    )


def _type_of(methods: Mapping[str, MethodSpecification]) -> Any:
    """What tyro is to read, as ``ns-train`` has it (nerfstudio/configs/method_configs.py, AnnotatedBaseConfigUnion)."""
    union = tyro.extras.subcommand_type_from_defaults(
        defaults={name: method.config for name, method in methods.items()},
        descriptions={name: method.description for name, method in methods.items()},
    )
    return tyro.conf.SuppressFixed[tyro.conf.FlagConversionOff[union]]


def _ours(name: str) -> MethodSpecification:
    try:
        method = find_method(name)
    except SplatkitError as error:
        raise SplatkitError(
            f"{str(error).rstrip('?')}. Methods of nerfstudio itself are trained by ns-train."
        ) from None
    if not _is_ours(method):
        raise SplatkitError(f"{name} is not made of the parts of splatkit-ns; train it with: ns-train {name}")
    return method


def _is_ours(method: MethodSpecification) -> bool:
    return isinstance(method.config, SplatkitTrainerConfig)
