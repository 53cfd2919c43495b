"""``config.yml`` files that would run a program: refused by name, before anything in them is imported or called."""

from __future__ import annotations

import enum
import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from nerfstudio.configs.dataparser_configs import all_dataparsers
from nerfstudio.configs.method_configs import all_methods

from splatkit_ns.cli import main
from splatkit_ns.errors import SplatkitError
from splatkit_ns.plugin.loading import load_run, read_config
from splatkit_ns.plugin.run.config_tensors import stored_tensor
from splatkit_ns.plugin.run.folder.config_file import UntrustedConfigError, holds_config, packages_named, parse_config
from splatkit_ns.plugin.trainer import SplatkitTrainerConfig
from tests.plugin.test_methods import ENTRY_POINTS

OLD_RUN = Path(__file__).parents[1] / "data/v0.1.0/runs/tiny/splatkit-3dgs/run/config.yml"
EVIL = """
from dataclasses import dataclass
from pathlib import Path

Path(__file__).with_name("imported").touch()

def call(*arguments, **settings):
    Path(__file__).with_name("called").touch()

@dataclass
class Part:
    size: int = 3
    def __setstate__(self, state):
        call()
        self.__dict__.update(state)
"""


@pytest.fixture
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path with a module that tells when it is imported or used."""
    (tmp_path / "evil_parts.py").write_text(EVIL)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "evil_parts", raising=False)
    return tmp_path


def with_line(line: str, key: str = "prompt") -> str:
    """The config of a good run, with another value for a setting of its last level."""
    lines = OLD_RUN.read_text().splitlines()
    return "\n".join([*(entry for entry in lines if not entry.startswith(f"{key}:")), f"{key}: {line}"]) + "\n"


def deeper(line: str) -> str:
    """The same, within the pipeline."""
    return OLD_RUN.read_text().replace("  _target: !!python/name:splatkit_ns.plugin.pipeline.SplatkitPipeline ''", line)


HOSTILE = {
    "a call of the system": (with_line("!!python/object/apply:os.system ['touch called']"), "'os.system'"),
    "a call with keywords": (
        with_line("!!python/object/apply:subprocess.run\n  kwds: {args: 'touch called', shell: true}"),
        "'subprocess.run'",
    ),
    "a call of a builtin": (with_line("!!python/object/apply:builtins.eval ['1']"), "'builtins.eval'"),
    "a builtin without its module": (with_line("!!python/object/apply:exec ['1']"), "'exec'"),
    "an instance of another class": (with_line("!!python/object:evil_parts.Part {size: 3}"), "'evil_parts.Part'"),
    "a new object": (with_line("!!python/object/new:evil_parts.Part [3]"), "'evil_parts.Part'"),
    "a new object of ours": (
        with_line("!!python/object/new:nerfstudio.configs.base_config.MachineConfig []"),
        "'nerfstudio.configs.base_config.MachineConfig'",
    ),
    "a name alone": (with_line("!!python/name:evil_parts.call ''"), "'evil_parts.call'"),
    "a module": (with_line("!!python/module:evil_parts ''"), "'evil_parts'"),
    "a key": (with_line("{!!python/object/apply:evil_parts.call []: 1}"), "'evil_parts.call'"),
    "a tag written out": (with_line("!<tag:yaml.org,2002:python/object/apply:evil_parts.call> []"), "evil_parts.call"),
    "a tag with escapes": (with_line("!!python/object/apply:%65vil_parts.call []"), "'evil_parts.call'"),
    "a tag with a handle of its own": (
        "%TAG !e! tag:yaml.org,2002:python/object/apply:\n---\n" + with_line("!e!evil_parts.call []"),
        "'evil_parts.call'",
    ),
    "the target of a config": (deeper("  _target: !!python/name:evil_parts.call ''"), "'evil_parts.call'"),
    "a function of nerfstudio as target": (
        deeper("  _target: !!python/name:nerfstudio.utils.scripts.run_command ''"),
        "'nerfstudio.utils.scripts.run_command', which is no class",
    ),
    "a module that nerfstudio imports": (
        deeper("  _target: !!python/name:nerfstudio.utils.scripts.subprocess ''"),
        "'nerfstudio.utils.scripts.subprocess', which is no class",
    ),
    "a class that nerfstudio imports": (
        deeper("  _target: !!python/name:nerfstudio.engine.trainer.Path ''"),
        "'nerfstudio.engine.trainer.Path', which is no class",
    ),
    "another class of nerfstudio as target": (
        deeper("  _target: !!python/name:nerfstudio.utils.writer.LocalWriter ''"),
        "'LocalWriter' made by SplatkitPipelineConfig",
    ),
    "a text as target": (deeper("  _target: os.system"), "'os.system' made by SplatkitPipelineConfig"),
    "a class of nerfstudio where none belongs": (
        with_line("!!python/name:nerfstudio.utils.writer.LocalWriter ''"),
        "'nerfstudio.utils.writer.LocalWriter'",
    ),
    "a call of a function of nerfstudio": (
        with_line("!!python/object/apply:nerfstudio.utils.scripts.run_command ['touch called']"),
        "'nerfstudio.utils.scripts.run_command', which is no class",
    ),
    "a call of a class of nerfstudio": (
        with_line("!!python/object/apply:nerfstudio.configs.base_config.MachineConfig []"),
        "it calls 'nerfstudio.configs.base_config.MachineConfig'",
    ),
    "a class of nerfstudio that is no config": (
        with_line("!!python/object:nerfstudio.utils.writer.LocalWriter {}"),
        "'nerfstudio.utils.writer.LocalWriter', which is no class of configs",
    ),
    "a package with a name like nerfstudio's": (
        with_line("!!python/object:nerfstudio_evil.Config {}"),
        "'nerfstudio_evil.Config'",
    ),
    "a method replaced": (with_line("1", "get_checkpoint_dir"), "it replaces SplatkitTrainerConfig.get_checkpoint_dir"),
    "a layer called": (with_line("!!python/object/apply:torch.nn.modules.linear.Linear [3, 4]"), "it calls 'torch.nn"),
    "a method of a layer replaced": (
        with_line("!!python/object:torch.nn.modules.linear.Linear {forward: 1}"),
        "it replaces Linear.forward",
    ),
    "a network of nerfstudio's": (
        with_line("!!python/object:nerfstudio.field_components.mlp.MLP {}"),
        "'nerfstudio.field_components.mlp.MLP', which is no class of configs",
    ),
    "a function of PyTorch's layers": (
        with_line("!!python/object/apply:torch.nn.modules.module.register_module_forward_hook [1]"),
        "'torch.nn.modules.module.register_module_forward_hook', which is no class",
    ),
    "weights that run code": (
        with_line("!!python/object/apply:torch.storage._load_from_bytes [!!binary gASVAA==]"),
        "'torch.storage._load_from_bytes'",
    ),
    "merge keys": (with_line("{<<: {a: 1}}"), "it has a merge key"),
    "a huge number": (with_line("1" + ":1" * 60_000), "a value of 120,001 characters"),
    "a huge file": (with_line("1") + "#" * 4_000_000, "characters, more than any config"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_config_is_refused(case: str, evil: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(evil)
    path = evil / "config.yml"
    content, message = HOSTILE[case]
    path.write_text(content)
    before = set(sys.modules)
    with pytest.raises(UntrustedConfigError) as found:
        read_config(path)
    assert message in str(found.value)
    assert "was refused, and nothing in it was run" in str(found.value)
    assert sorted(entry.name for entry in evil.iterdir() if entry.is_file()) == ["config.yml", "evil_parts.py"]
    assert not [name for name in set(sys.modules) - before if not name.startswith("nerfstudio")]


def test_each_name_is_told_once_with_its_line() -> None:
    text = "\n".join(f"a{i}: !!python/name:evil_{min(i, 6)}.x ''" for i in range(20))
    with pytest.raises(UntrustedConfigError) as found:
        parse_config(text)
    expected = "it names " + ", ".join(f"'evil_{i}.x' (line {i + 1})" for i in (6, 5, 4, 3, 2)) + ", and 2 more"
    assert str(found.value).replace("(line 20)", "(line 7)") == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 5000, "RecursionError"),
        ("a: [1", "ParserError"),
        ("a: !other 3", "ConstructorError"),
        ("!!python/object:nerfstudio.engine.trainer.Nothing {}", "trainer has no 'Nothing'\\. A run needs all"),
        ("!!python/object:nerfstudio.nowhere.Config {}", "ModuleNotFoundError"),
        ("- 1", "holds list, no run"),
        ("", "holds NoneType, no run"),
    ],
)
def test_a_damaged_config_is_one_message(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.yml").write_text(content)
    with pytest.raises(SplatkitError, match=message):
        read_config(tmp_path / "config.yml")


@pytest.mark.parametrize("trust", [(), ("__main__",)])
@pytest.mark.parametrize("name", ["__main__.Tint", "__main__.make.%3Clocals%3E.Tint"])
def test_a_part_of_the_script_that_trained_a_run_is_told_with_what_to_do(
    name: str, trust: tuple[str, ...], tmp_path: Path
) -> None:
    path = tmp_path / "config.yml"
    path.write_text(with_line(f"!!python/object:{name} {{}}"))
    with pytest.raises(SplatkitError, match=r"is known to the program alone that trained") as found:
        read_config(path, trust)
    assert "write my_parts.Tint in place of __main__." in str(found.value)
    assert "--trust my_parts" in str(found.value)
    assert "all that its config names" not in str(found.value)


def test_parts_of_ones_own_after_trust(evil: Path) -> None:
    text = with_line("!!python/object:evil_parts.Part {size: 5}")
    with pytest.raises(UntrustedConfigError, match=r"'evil_parts\.Part' \(line \d+\)"):
        parse_config(text)
    assert not (evil / "imported").exists()
    assert parse_config(text, trust=["evil_parts"]).prompt.size == 5
    assert (evil / "imported").exists()
    with pytest.raises(UntrustedConfigError, match="'evil_parts_too"):
        parse_config(with_line("!!python/object:evil_parts_too.Part {}"), trust=["evil_parts"])
    assert packages_named(text) == {"evil_parts", "splatkit_ns", "nerfstudio", "torch", "pathlib"}


NET_PARTS = """
import torch
from torch import nn
from splatkit_ns.image_model import SplatImageModel

class Net(nn.Module, SplatImageModel):
    def __init__(self):
        super().__init__()
        middle = [nn.BatchNorm1d(200), *(nn.Tanh() for _ in range(9))]
        self.net = nn.Sequential(nn.Linear(3, 200), *middle, nn.Linear(200, 200))
        self.one = nn.Parameter(torch.tensor(2.0), requires_grad=False)
        self.same = self.one
        self.register_buffer("halves", torch.tensor([1.5, -2.0], dtype=torch.bfloat16))
    def apply(self, rendered, frame):
        return rendered
"""


def test_a_network_of_ones_own_comes_back_with_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyYAML alone would write calls of `torch.load`, and sort twelve layers as "0", "1", "10", "11", "2".

    40,200 weights are more than one value may hold.
    """
    (tmp_path / "net_parts.py").write_text(NET_PARTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "net_parts", raising=False)
    net = importlib.import_module("net_parts").Net()
    text = yaml.dump(net)
    assert "_load_from_bytes" not in text
    with pytest.raises(UntrustedConfigError, match=r"names 'net_parts\.Net' \(line 1\)$"):
        parse_config(text)
    for found in (parse_config(text, trust=["net_parts"]), yaml.load(text, Loader=yaml.UnsafeLoader)):
        assert type(found) is type(net)
        expected, weights = net.state_dict(), found.state_dict()
        assert list(weights) == list(expected)
        assert all(torch.equal(weights[name], value) for name, value in expected.items())
        assert [each.requires_grad for each in found.parameters()] == [each.requires_grad for each in net.parameters()]
        assert found.same is found.one
        assert yaml.dump(found) == text
        assert torch.equal(found.net.eval()(torch.ones(2, 3)), net.net.eval()(torch.ones(2, 3)))
    with pytest.raises(ValueError, match="no type of tensors 'load'"):
        stored_tensor("load", [1], None, ["AA=="])


def test_a_run_whose_network_begins_with_other_weights_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script that is run again makes it anew; the run goes on with the weights of its checkpoint."""
    (tmp_path / "net_parts.py").write_text(NET_PARTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "net_parts", raising=False)
    make = importlib.import_module("net_parts").Net
    config = parse_config(OLD_RUN.read_text())
    config.pipeline.model.image_model = make()
    (tmp_path / "config.yml").write_text(yaml.dump(config))

    def holds(**attributes: Any) -> bool:
        config.pipeline.model.image_model = net = make()
        vars(net).update(attributes)
        net.halves += 1
        return holds_config(tmp_path / "config.yml", config)

    assert holds()
    assert not holds(learning_rate=0.1)
    assert not holds(anchors=torch.ones(3)), "a tensor that no checkpoint holds"
    weights = {"weight": torch.nn.Parameter(torch.ones(2, 2))}
    assert not holds(_modules={"net": torch.nn.ParameterDict(weights)})


def test_known_configs_come_back_as_they_were() -> None:
    """All our methods, and one of them with every data parser that there is, two of pipelines that others have made."""
    configs: dict[str, Any] = {name: all_methods[name] for name in ENTRY_POINTS}  # other tests may have added methods
    assert len(configs) == 7
    for config in configs.values():
        text = yaml.dump(config)
        assert yaml.dump(parse_config(text)) == text
    config = configs["splatkit-3dgs"]
    usual = config.pipeline.datamanager.dataparser
    for parser in all_dataparsers.values():
        config.pipeline.datamanager.dataparser = parser
        text = yaml.dump(config)
        assert yaml.dump(parse_config(text)) == text
    config.pipeline.datamanager.dataparser = usual
    assert isinstance(read_config(OLD_RUN), SplatkitTrainerConfig)


class OldMember(enum.Enum):
    """Pickled as Python before 3.11.4 pickles members."""

    ONE = "one"

    def __reduce_ex__(self, protocol: Any) -> Any:
        return getattr, (type(self), self.name)


def test_members_of_enumerations_are_written_alike_by_every_python() -> None:
    assert yaml.dump(OldMember.ONE) == f"!!python/object/apply:{__name__}.OldMember\n- one\n"


def test_commands_refuse_and_trust(evil: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = evil / "config.yml"
    path.write_text(with_line("!!python/object/apply:evil_parts.call []"))
    commands = {
        "export": ["--output", "a.ply"],
        "clean": ["--output", "a.ply"],
        "prune": ["--output", "a.ply", "--to", "5"],
        "render": ["--output", "a.mp4"],
        "mesh": [],
    }
    for command, arguments in commands.items():
        assert main([command, "--load-config", str(path), *arguments]) == 1
        text = " ".join(capsys.readouterr().err.split())
        assert "was refused, and nothing in it was run: it names 'evil_parts.call' (line " in text
        assert "add --trust my_parts" in text
        assert not (evil / "imported").exists()
    with pytest.raises(SplatkitError, match=r"no checkpoint|There is no"):
        load_run(path, trust=["evil_parts"])
    assert (evil / "called").exists()


def test_a_strangers_config_in_the_output_folder_is_not_run(evil: Path) -> None:
    """A run that is about to start compares its config with that of the folder."""
    (evil / "config.yml").write_text(with_line("!!python/object/apply:evil_parts.call []"))
    config = parse_config(OLD_RUN.read_text())
    assert not holds_config(evil / "config.yml", config)
    assert not (evil / "imported").exists()
    (evil / "config.yml").write_text("# a comment\n" + OLD_RUN.read_text())
    assert holds_config(evil / "config.yml", config)
    elsewhere = parse_config(OLD_RUN.read_text())
    elsewhere.machine.num_devices, elsewhere.machine.num_machines = 4, 2
    assert holds_config(evil / "config.yml", elsewhere), "a run may go on elsewhere"
    elsewhere.machine.seed += 1
    assert not holds_config(evil / "config.yml", elsewhere)
