"""Reading a run's ``config.yml`` without trusting it, and checks of its text.

nerfstudio stores a run's config as YAML with tags that name Python objects, and its own commands import and call
whatever the tags name. Here only config classes that we know are made. All names are checked before the first import.
"""

from __future__ import annotations

import dataclasses
import enum
import pathlib
import re
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from splatkit_ns.errors import SplatkitError, describe_error, listed
from splatkit_ns.importing import import_object
from splatkit_ns.plugin.reporting.console import report_once
from splatkit_ns.plugin.run.config_tensors import WithoutWeights, stored_tensor
from splatkit_ns.plugin.run.folder.program_parts import advice_on_program_parts

KNOWN = ("nerfstudio", "splatkit_ns", "torch.optim", "torch.nn.modules", "gsplat.strategy")
"""The packages whose config classes, or layers of networks, may be named."""
_TENSOR = f"{stored_tensor.__module__}.{stored_tensor.__qualname__}"
_CALLED = ("collections.OrderedDict", _TENSOR)
"""The functions that the config of an `nn.Module` calls; all that they make of their arguments is data."""
_PREFIX = "tag:yaml.org,2002:python/"
_PLAIN = frozenset(
    ["none", "bool", "str", "unicode", "bytes", "int", "long", "float", "complex", "list", "tuple", "dict"]
)
_OBJECT, _APPLY, _NAME = "object", "object/apply", "name"
_PATHS = re.compile(r"pathlib\.(_local\.)?(PurePath|PurePosixPath|PureWindowsPath|Path|PosixPath|WindowsPath)")
_MERGE = "tag:yaml.org,2002:merge"
_MOST_CHARACTERS = 4_000_000
_LONGEST_VALUE = 100_000
_TARGET = "_target"
_SHOWN = 5
PLACE = ("num_devices", "num_machines", "machine_rank", "dist_url")
"""The options of ``machine`` that say where a run trains; any that were stopped may go on elsewhere."""


class UntrustedConfigError(SplatkitError):
    """A config names objects that are not known; nothing in it was run."""


def parse_config(text: str, trust: Iterable[str] = ()) -> Any:
    """Make the config that a ``config.yml`` describes.

    Args:
        text: the content of the file.
        trust: packages or modules whose objects may be named, too, such as those of a user's own parts.

    Raises:
        UntrustedConfigError: the text names other objects, or known ones in a place or a way that no config has.
        SplatkitError: an object cannot be imported here.
        yaml.YAMLError: the text is no YAML.
    """
    if len(text) > _MOST_CHARACTERS:
        raise UntrustedConfigError(f"it has {len(text):,} characters, more than any config")
    loader = _Loader(text)
    loader.trusted = tuple(trust)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check_names(node, loader.trusted)
        return loader.construct_document(node)
    finally:
        loader.dispose()


def read_config_file(path: Path, trust: Iterable[str] = (), shown: str = "--load-config: ") -> Any:
    """Make the config that a file describes, of any method.

    Args:
        path: the file.
        trust: see `parse_config`.
        shown: stands before the path in messages.

    Raises:
        SplatkitError: it cannot be read, or names objects that are not trusted; then nothing in it was run.
    """
    if path.is_dir():
        hint = hint_of_config(path) or "ns-train prints it when it starts."
        raise SplatkitError(f"{shown}{path} is a folder; give the path of a run's config.yml. {hint}")
    text = ""
    try:
        text = path.read_text("utf-8")
        return parse_config(text, trust)
    except FileNotFoundError:
        hint = hint_of_config(path) or "ns-train prints the path when it starts."
        raise SplatkitError(f"{shown}{path} does not exist. {hint}") from None
    except UntrustedConfigError as error:
        advice = advice_on_program_parts(text) or (
            "If it is of a package or module with parts of your own, such as my_parts, add --trust my_parts."
        )
        raise UntrustedConfigError(
            f"{shown}{path} was refused, and nothing in it was run: {error}. A config of nerfstudio's and "
            f"splatkit-ns's own parts never does that. {advice}"
        ) from None
    except SplatkitError as error:
        advice = advice_on_program_parts(text) or (
            "A run needs all that its config names, in modules that can be imported."
        )
        raise SplatkitError(f"{shown}{path} cannot be read: {error} {advice}") from error
    except Exception as error:  # damaged YAML, classes of another version
        raise SplatkitError(
            f"{shown}{path} cannot be read ({describe_error(error)}). It must be the config.yml of a run."
        ) from error


def hint_of_config(path: Path) -> str | None:
    """A sentence that names the config which was probably meant by a path that is none; None if there is none near."""
    for folder in (path, path.parent):
        if (folder / "config.yml").is_file():
            return f"Its config is {folder / 'config.yml'}."
    below = [found for levels in ("*", "*/*", "*/*/*") for found in path.glob(f"{levels}/config.yml")]
    return f"The newest run in it is {max(below, key=lambda each: each.stat().st_mtime)}." if below else None


def holds_config(path: Path, config: Any) -> bool:
    """Whether a file holds the same config, but for the number of devices and machines, and the weights of networks.

    It is compared as text, then after reading and writing it again: users add comments, and files of older versions
    lack options.
    """
    try:
        found, text = path.read_text("utf-8"), yaml.dump(config)
        if found == text:
            return True
        stored = parse_config(found, trust=packages_named(text))
        for name in PLACE:
            setattr(stored.machine, name, getattr(config.machine, name))
        return yaml.dump(stored, Dumper=WithoutWeights) == yaml.dump(config, Dumper=WithoutWeights)
    except Exception:  # loading a file with other content can raise any exception
        return False


def note_unknown_settings(config: Any) -> None:
    """Print a note about settings of nerfstudio's and our classes that do not exist, such as misspelt ones.

    YAML sets any attribute of an object, and so does Python.
    """
    found = [
        f"{place}{name}" + (f" (did you mean {near[0]}?)" if (near := get_close_matches(name, known, n=1)) else "")
        for place, name, known in _unknown_settings(config, "", ())
    ]
    if found:
        report_once(f"Settings that do not exist, and so do not count: {', '.join(found)}.")


def _unknown_settings(value: Any, place: str, owners: tuple[int, ...]) -> Iterator[tuple[str, str, list[str]]]:
    """The place, ending with a dot, and the name of each, and the names that exist there; `owners` hold the value."""
    if id(value) in owners:
        return
    owners = (*owners, id(value))
    entries: dict[Any, Any] = {}
    if isinstance(value, dict):
        entries = value
    elif dataclasses.is_dataclass(value) and is_within(type(value).__module__, KNOWN):
        known = [field.name for field in dataclasses.fields(value)]
        entries = {name: entry for name, entry in vars(value).items() if name in known}
        yield from ((place, name, known) for name in vars(value).keys() - entries.keys())
    for name, entry in entries.items():
        yield from _unknown_settings(entry, f"{place}{name}.", owners)


def packages_named(text: str) -> set[str]:
    """The top-level packages that the tags of a config's text name."""
    return {found.partition(".")[0] for found in re.findall(r"!!python/(?:name|object[/a-z]*):([\w.]+)", text)}


def is_within(name: str, packages: Iterable[str]) -> bool:
    """Whether a dotted name is one of these packages, or in one of them."""
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def _check_names(root: yaml.Node, trusted: Sequence[str]) -> None:
    """Check all tags of a document before anything is imported.

    Raises:
        UntrustedConfigError: some name other objects; the message lists them.
    """
    found: dict[str, int] = {}
    for node, key in _nodes(root):
        tag = str(node.tag)
        # A few lines of either would take hours, or all memory, to construct.
        if tag == _MERGE or (isinstance(node, yaml.ScalarNode) and len(node.value) > _LONGEST_VALUE):
            line = node.start_mark.line + 1
            raise UntrustedConfigError(f"it has a merge key or a value of {len(node.value):,} characters (line {line})")
        if not tag.startswith(_PREFIX):
            continue
        kind, _, name = tag.removeprefix(_PREFIX).partition(":")
        if name and is_within(name, trusted):
            fits = True
        elif kind == _OBJECT:
            fits = is_within(name, KNOWN)
        elif kind == _APPLY:
            fits = is_within(name, KNOWN) or name in _CALLED or _PATHS.fullmatch(name) is not None
        elif kind == _NAME:
            fits = is_within(name, KNOWN) and key == _TARGET
        else:
            fits = not name and kind in _PLAIN
        if not fits:
            found.setdefault(name or kind, node.start_mark.line + 1)
    if found:
        shown = [f"{name[:100]!r} (line {line})" for name, line in found.items()]
        raise UntrustedConfigError(f"it names {listed(shown, _SHOWN)}")


def _nodes(root: yaml.Node) -> Iterator[tuple[yaml.Node, str | None]]:
    """All nodes, and the key of each that is a value of a mapping; a node that is used twice comes with each key."""
    pending: list[tuple[yaml.Node, str | None]] = [(root, None)]
    seen: set[tuple[int, str | None]] = set()
    while pending:
        node, key = pending.pop()
        if (id(node), key) in seen:
            continue
        seen.add((id(node), key))
        yield node, key
        if isinstance(node, yaml.MappingNode):
            for name, value in node.value:
                pending += [(name, None), (value, name.value if isinstance(name, yaml.ScalarNode) else None)]
        elif isinstance(node, yaml.SequenceNode):
            pending += [(value, None) for value in node.value]


class _Loader(yaml.FullLoader):
    """Makes instances of config classes whose names have been checked."""

    trusted: tuple[str, ...] = ()

    def find_python_name(self, name: str, mark: Any, unsafe: bool = False) -> Any:
        """The object of a name; of a package that is only known, it has to be a class that is defined right there."""
        module_name, _, object_name = name.rpartition(".")
        found = import_object(f"{module_name}:{object_name}", f"it names {name}")
        own = isinstance(found, type) and (found.__module__, found.__qualname__) == (module_name, object_name)
        if not (own or name == _TENSOR or _PATHS.fullmatch(name) or is_within(name, self.trusted)):
            raise UntrustedConfigError(f"it names {name!r}, which is no class of {module_name}")
        return found

    def make_python_instance(
        self, suffix: str, node: Any, args: Any = None, kwds: Any = None, newobj: bool = False, unsafe: bool = False
    ) -> Any:
        """An empty instance of a dataclass or layer, or an enumeration's member, path or tensor of these arguments."""
        cls: Any = self.find_python_name(suffix, node.start_mark)
        if is_within(suffix, self.trusted):
            return cls.__new__(cls, *(args or ())) if newobj else cls(*(args or ()), **(kwds or {}))
        if newobj:
            if not (hasattr(cls, "__dataclass_fields__") or _is_layer(cls)):
                raise UntrustedConfigError(f"it names {suffix!r}, which is no class of configs")
            return cls.__new__(cls)
        if suffix in _CALLED and not kwds:
            return cls(*(args or ()))
        if kwds or not issubclass(cls, (enum.Enum, pathlib.PurePath)):
            raise UntrustedConfigError(f"it calls {suffix!r}")
        return cls(*(args or ()))

    def set_python_instance_state(self, instance: Any, state: Any, unsafe: bool = False) -> None:
        """Set the attributes of an instance; a class that its config will make has to be of the usual kind."""
        cls = type(instance)
        if not is_within(cls.__module__, self.trusted):
            self._check_state(cls, state)
        super().set_python_instance_state(instance, state, unsafe)

    def _check_state(self, cls: type[Any], state: dict[Any, Any]) -> None:
        if _is_layer(cls):
            methods = [name for name in state if callable(getattr(cls, str(name), None))]
            if methods:
                raise UntrustedConfigError(f"it replaces {cls.__name__}.{methods[0]}")
            return
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for name, value in state.items():
            if name not in fields and hasattr(cls, str(name)):
                raise UntrustedConfigError(f"it replaces {cls.__name__}.{name}")
            if name == _TARGET and not self._may_make(fields.get(_TARGET), value):
                raise UntrustedConfigError(f"it has {getattr(value, '__name__', value)!r} made by {cls.__name__}")

    def _may_make(self, field: dataclasses.Field[Any] | None, target: Any) -> bool:
        """Whether this is the class that a config makes by default, a subclass of it, or trusted."""
        if field is None or not isinstance(target, type):
            return False
        if is_within(target.__module__, self.trusted):
            return True
        usual: Any = field.default
        if field.default_factory is not dataclasses.MISSING:
            usual = field.default_factory()
        return isinstance(usual, type) and issubclass(target, usual)


def _is_layer(cls: type) -> bool:
    """Whether this is a class of a layer of PyTorch's own."""
    return issubclass(cls, nn.Module) and is_within(cls.__module__, ("torch.nn.modules",))


def _represent_member(dumper: yaml.Dumper, member: enum.Enum) -> yaml.Node:
    """Write an enumeration's member as its class and value; Python before 3.11.4 would name `getattr`."""
    cls = type(member)
    return dumper.represent_sequence(f"{_PREFIX}{_APPLY}:{cls.__module__}.{cls.__qualname__}", [member.value])


yaml.add_multi_representer(enum.Enum, _represent_member)
_Loader.add_multi_constructor(f"{_PREFIX}{_OBJECT}:", _Loader.construct_python_object)
_Loader.add_multi_constructor(f"{_PREFIX}{_APPLY}:", _Loader.construct_python_object_apply)
