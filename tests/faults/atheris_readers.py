"""Coverage-guided fuzzing of the readers and of the options' checks, with atheris where that installs: `make faults`.

    python -m tests.faults.atheris_readers 50000             # so many inputs a target, one target after the other
    python -m tests.faults.atheris_readers ply FILE          # one input again
    python -m tests.faults.atheris_readers ply -runs=1000    # one target, with flags of libFuzzer

An input that crashes, hangs, takes too much memory or is read wrongly is kept as ./atheris-TARGET-*.
"""

from __future__ import annotations

import importlib.util
import pickletools
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.faults.archives import archive_of, entries_of

Target = tuple[Callable[[bytes], None], Callable[[bytes, int, int], bytes] | None, list[bytes]]
"""What is done with an input, what changes inputs (atheris' own way if None), and whole inputs to begin with."""

FLAGS = ("-timeout=20", "-rss_limit_mb=4000", "-max_len=32768", "-len_control=0", "-print_final_stats=1")


def edited(items: list[Any], new: Callable[[], Any], chance: random.Random) -> list[Any]:
    """A copy with one to three changes: items replaced, inserted, deleted, repeated or exchanged."""
    items = list(items)
    for _ in range(chance.randint(1, 3)):
        i, j = chance.randrange(len(items) + 1), chance.randrange(len(items) + 1)
        match chance.randrange(5):
            case 0:
                items[i : i + 1] = [new()]
            case 1:
                items.insert(i, new())
            case 2:
                del items[i : chance.choice([i + 1, i + 1, i + 1, j])]
            case 3:
                items[i:i] = items[j : j + chance.randint(1, 4)] * chance.choice([1, 1, 2, 150])
            case _ if max(i, j) < len(items):
                items[i], items[j] = items[j], items[i]
            case _:
                pass
    return items


def ply_target(folder: Path) -> Target:
    """Files for `SplatModel.load_ply`; lines and words of the header are changed, too."""
    import atheris
    import numpy as np

    from splatkit_ns.formats.ply_header import SCALAR_TYPES
    from tests.faults.test_hostile_ply import NAMES, WORDS, header, read_or_refused, small_files

    words = [word.encode() for word in (*WORDS, *SCALAR_TYPES)]
    counts = [word for word in words if word.lstrip(b"-").isdigit()]
    seeds = [*small_files(folder), header(NAMES, 10**12) + bytes(100)]
    for kind, code in SCALAR_TYPES.items():
        seeds.append(header(NAMES, 2, kind) + np.arange(28).astype("<" + code).tobytes())

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        chance = random.Random(seed)
        head, end, body = data.partition(b"end_header\n")
        kind = chance.randrange(4)
        if kind == 0 or not end:
            return atheris.Mutate(data, max_size)
        if kind == 1:
            return (head + end + atheris.Mutate(body, max_size))[:max_size]
        lines = head.split(b"\n")
        if kind == 2:
            lines = edited(lines, lambda: b" ".join(chance.choices(words, k=chance.randint(1, 4))), chance)
        else:
            i = chance.randrange(chance.choice([3, len(lines)])) % len(lines)  # often format and number of rows
            new = words if chance.random() < 0.5 else counts
            lines[i] = b" ".join(edited(lines[i].split(b" "), lambda: chance.choice(new), chance))
        return (b"\n".join(lines) + end + body)[:max_size]

    return lambda data: read_or_refused(data, folder / "input.ply"), mutate, seeds


def checkpoint_target(folder: Path) -> Target:
    """Files for `read_checkpoint`; operations of the pickle are changed, too, and the checksums put right."""
    import atheris
    import torch

    from splatkit_ns.splat import CheckpointError, read_checkpoint
    from splatkit_ns.splat.checkpoint import _tensors
    from tests.faults.test_hostile_checkpoints import Payload, write_small

    path, ran = folder / "input.ckpt", list[str]()
    reading = False

    def audit(event: str, _: tuple[Any, ...]) -> None:
        if reading and event in ("pickle.find_class", "os.mkdir", "os.system", "subprocess.Popen", "socket.connect"):
            ran.append(event)

    def check(data: bytes) -> None:
        nonlocal reading
        path.write_bytes(data)
        reading, loaded, message = True, None, ""
        try:
            loaded = read_checkpoint(path)
        except CheckpointError as error:
            message = str(error)
        finally:
            reading = False
            assert not ran, ran
        if loaded is None:
            assert str(path) in message
            return
        assert 0 <= loaded["step"] < 10**9
        storages: dict[int, int] = {}
        for tensor in _tensors(loaded):
            assert tensor.device.type == "cpu"
            assert tensor.clone().shape == tensor.shape, "all of it can be read"
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        assert sum(storages.values()) <= len(data)

    write_small(path)
    seeds = [path.read_bytes()]
    extras = [Payload(folder / "canary"), ((1, 2), {(3, 4): {5}}), [torch.zeros(2, device="meta"), torch.Size([2])]]
    for extra in extras:
        torch.save({"step": 1, "pipeline": {"x": extra}, "optimizers": {}}, path)
        seeds.append(path.read_bytes())
    operations = [part for seed in seeds for part in parts_of(pickle_of(seed))]
    allowed = torch._weights_only_unpickler._get_allowed_globals()
    operations += [f"c{module}\n{name}\n".encode() for module, _, name in (full.rpartition(".") for full in allowed)]

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        chance = random.Random(seed)
        try:
            entries = entries_of(data)
            i = next(i for i, (name, _) in enumerate(entries) if name.endswith("data.pkl"))
            if chance.random() < 0.2:
                i = chance.randrange(len(entries))
            name, content = entries[i]
            if name.endswith("data.pkl") and chance.random() < 0.8:
                content = b"".join(edited(parts_of(content), lambda: chance.choice(operations), chance))
            else:
                content = atheris.Mutate(content, 1024)
        except Exception:  # it is no archive with a pickle any more
            return atheris.Mutate(data, max_size)
        entries[i] = name, content
        if chance.random() < 0.05:
            entries = edited(entries, lambda: ("archive/DATA.PKL", content), chance)
        made = archive_of(entries)
        return made if chance.random() < 0.9 and len(made) <= max_size else atheris.Mutate(made[:max_size], max_size)

    sys.addaudithook(audit)
    return check, mutate, seeds


def pickle_of(archive: bytes) -> bytes:
    """The pickle in a checkpoint."""
    return next(content for name, content in entries_of(archive) if name.endswith("data.pkl"))


def parts_of(pickled: bytes) -> list[bytes]:
    """A pickle's operations with their arguments."""
    starts = [position for _, _, position in pickletools.genops(pickled) if position is not None]
    return [pickled[i:j] for i, j in zip(starts, [*starts[1:], len(pickled)], strict=True)]


def options_target(_: Path) -> Target:
    """Values for a run's options; see `test_fuzz_options`."""
    import atheris

    from tests.faults.test_fuzz_options import PLACES, check_choice

    names = [(place, name) for place, names in PLACES.items() for name in names]
    usual = [0, -0.0, 1, -1, 0.5, 2.0, float("nan"), float("inf"), 10**20]

    def check(data: bytes) -> None:
        source = atheris.FuzzedDataProvider(data)
        densification = source.PickValueInList(["default", "mcmc"])
        choice: dict[tuple[str, str], Any] = {}
        for _ in range(source.ConsumeIntInRange(0, 6)):
            name = source.PickValueInList(names)
            makers = (source.ConsumeFloat, lambda: source.ConsumeInt(8), lambda: source.PickValueInList(usual))
            choice[name] = source.PickValueInList(list(makers))()
        check_choice(densification, choice)

    return check, None, [random.Random(i).randbytes(100) for i in range(20)]


def format_target(name: str, folder: Path) -> Target:
    """Files of another format; see `atheris_formats`, which may be imported only when the readers are instrumented."""
    from tests.faults.atheris_formats import target_of

    return target_of(name, folder)


TARGETS: dict[str, Callable[[Path], Target]] = {
    "ply": ply_target,
    "checkpoint": checkpoint_target,
    "options": options_target,
    **{name: partial(format_target, name) for name in ("compressed.ply", "glb", "sog", "splat", "spz")},
}


def fuzz(name: str, arguments: list[str]) -> None:
    """Fuzz one target in this process, which libFuzzer ends."""
    import atheris
    from torch._weights_only_unpickler import Unpickler

    Unpickler.load = atheris.instrument_func(Unpickler.load)
    with atheris.instrument_imports(
        include=["splatkit_ns.splat", "splatkit_ns.formats", "splatkit_ns.plugin.options.check"]
    ):
        from splatkit_ns.formats import all_formats
        from tests.faults import runs  # noqa: F401  # imports all of it

        all_formats()
    with tempfile.TemporaryDirectory() as folder:
        check, mutate, seeds = TARGETS[name](Path(folder))
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        for i, seed in enumerate(seeds):
            (corpus / str(i)).write_bytes(seed)
        inputs = [] if any(not argument.startswith("-") for argument in arguments) else [str(corpus)]
        flags = [*FLAGS, f"-artifact_prefix=atheris-{name}-", *arguments, *inputs]
        atheris.Setup([sys.argv[0], *flags], check, **({"custom_mutator": mutate} if mutate else {}))
        atheris.Fuzz()


def fuzz_all(inputs: int) -> int:
    """Fuzz every target in a process of its own; the exit status says whether all went well."""
    if importlib.util.find_spec("atheris") is None:
        sys.stdout.write("atheris is not installed (there are wheels for Python 3.11 and up): left out\n")
        return 0
    failed = False
    for name in TARGETS:
        command = [sys.executable, "-m", "tests.faults.atheris_readers", name, f"-runs={inputs}"]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        text = done.stdout.decode(errors="replace")
        count = re.search(r"Done (\d+) runs in (\d+) second", text)
        good = done.returncode == 0 and count is not None and int(count[1]) >= inputs
        failed |= not good
        outcome = f"{count[1]} inputs in {count[2]} s, no failure" if good and count else f"FAILED\n{text[-5000:]}"
        sys.stdout.write(f"atheris, {name}: {outcome}\n")
        sys.stdout.flush()
    return int(failed)


if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1] in TARGETS:
        fuzz(sys.argv[1], sys.argv[2:])
    else:
        sys.exit(fuzz_all(int(sys.argv[1])))
