"""Where the time of a run goes: the parts of its steps as the host sees them, on one GPU or on several.

    python benchmarks/step_parts.py SCENE --run splatkit-3dgs-big:4000
    python benchmarks/step_parts.py SCENE --run splatkit-3dgs-big:4000 --devices 2 --out parts.json
    python benchmarks/step_parts.py SCENE --run splatkit-3dgs:3000 --trace 1640 1670 --trace-file trace.json.gz

A run is METHOD:STEPS, optionally with overrides, as in ``train_gpu.py``. Printed are, for rank 0, the seconds until it
trains, the median milliseconds of ordinary steps in each quarter of the run, the number and the seconds of other steps,
the parts of the first step, and the calls and seconds of each part, with and without the parts within it. A part that
waits for the GPU has the GPU's time in it; with --synchronize the host waits before and after each part, which shows
what each costs but makes the run slower. With --memory, the largest memory of each GPU in each kind of step is noted,
with the number of Gaussians and the lengths of tile lists; each step is then a little slower. --trace also records the
GPU's kernels between two photographs with PyTorch's profiler.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import os
import statistics
import tempfile
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

BEGAN = time.time()
STEP = "splatkit_ns.plugin.trainer:SplatkitTrainer._train_step"
PARTS = (
    STEP,
    "splatkit_ns.plugin.trainer:SplatkitTrainer.begin_steps",
    "splatkit_ns.plugin.trainer:SplatkitTrainer.eval_iteration",
    "splatkit_ns.plugin.trainer:SplatkitTrainer._update_viewer_state",
    "splatkit_ns.plugin.step.training_step:TrainingStep.run",
    "splatkit_ns.plugin.step.parts:StepParts.begin_step",
    "splatkit_ns.plugin.step.parts:StepParts.take_frame",
    "splatkit_ns.plugin.step.parts:StepParts.finish_step",
    "splatkit_ns.plugin.datamanager:SplatkitDatamanager.next_train",
    "splatkit_ns.plugin.data.sampling.dealing:DealtImages.next_train",
    "splatkit_ns.plugin.step.graph:GraphForwardBackward.run",
    "splatkit_ns.plugin.step.graph:GraphForwardBackward._capture",
    "splatkit_ns.plugin.step.graph:GraphForwardBackward._launch",
    "splatkit_ns.plugin.step.graph:GraphForwardBackward._finish",
    "splatkit_ns.plugin.step.graph:GraphForwardBackward._wait_for_length",
    "splatkit_ns.plugin.step.plain:PlainForwardBackward.run",
    "splatkit_ns.plugin.step.graph:copy_frame",
    "splatkit_ns.plugin.step.parts:seed_generators",
    "splatkit_ns.plugin.step.frame:TrainingFrames.make",
    "splatkit_ns.plugin.step.rank_gradients:RankGradients.average",
    "splatkit_ns.plugin.step.rank_gradients:RankGradients.place",
    "splatkit_ns.plugin.run.processes.roll_call:RollCall.call",
    "splatkit_ns.plugin.run.processes.roll_call:RollCall.wait",
    "splatkit_ns.ranks:Ranks.gather_tensors",
    "splatkit_ns.ranks:Ranks.average_later",
    "splatkit_ns.plugin.step.finite:FiniteWatch.admits",
    "splatkit_ns.plugin.step.finite:FiniteWatch.record",
    "splatkit_ns.plugin.step.update_graph:SharedUpdateGraph.steps_alike",
    "splatkit_ns.plugin.step.update_graph:UpdateGraphs.take",
    "splatkit_ns.plugin.step.update_graph:SharedUpdateGraph.take",
    "splatkit_ns.plugin.step.update_graph:UpdateCapture.try_to",
    "splatkit_ns.plugin.step.update_graph:CapturedUpdate.run",
    "splatkit_ns.plugin.step.updates:ParameterUpdates.step",
    "splatkit_ns.plugin.step.updates:ParameterUpdates.step_schedules",
    "splatkit_ns.plugin.step.updates:ParameterUpdates.clear_gradients",
    "splatkit_ns.densification.mcmc:SplatMCMCDensification.densify",
    "splatkit_ns.densification.mcmc:add_position_noise",
    "splatkit_ns.splat.row_operations:GaussianRows.change_rows",
    "splatkit_ns.plugin.run.processes.together:Together.agree_to_stop",
    "splatkit_ns.plugin.run.processes.together:Together.compare",
    "splatkit_ns.plugin.run.parts.log:RunLog.after_step",
    "splatkit_ns.plugin.run.parts.log:RunLog.flush",
    "splatkit_ns.plugin.run.checkpoints.saving:Saver.save_if_due",
    "splatkit_ns.plugin.run.checkpoints.saving:Saver.save_last",
    "splatkit_ns.plugin.run.parts.held_out:HeldOutImages.measure",
)
"""The methods and functions that are timed, as module:Class.method or module:function; those that a checkout does not
have are left out."""
MARKS = {"change_rows": "rows change", "_capture": "graph captured", "save_if_due": "saved"}
"""Parts that make a step another kind; `save_if_due` only if it takes longer than `SAVES`."""
SAVES = 0.002


class Times:
    """The calls and seconds of each part in this thread, and the kind and milliseconds of each step."""

    def __init__(self, synchronizes: bool) -> None:
        self.synchronizes = synchronizes
        self.calls: Counter[str] = Counter()
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.own: defaultdict[str, float] = defaultdict(float)
        self.steps: list[tuple[str, float]] = []
        self.first_step: dict[str, float] = {}
        """The seconds of the parts of the first step."""
        self._inner: list[float] = []
        self._now: defaultdict[str, float] = defaultdict(float)
        self._thread = threading.get_ident()

    def watch(self, path: str) -> None:
        """Time a method from now on."""
        module, _, names = path.partition(":")
        *owners, method = names.split(".")
        try:
            owner: Any = functools.reduce(getattr, owners, importlib.import_module(module))
            call = getattr(owner, method)
        except AttributeError:
            return
        name, label = path, f"{owner.__name__}.{method}"

        @functools.wraps(call)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() != self._thread:
                return call(*args, **kwargs)
            if name == STEP:
                self._now.clear()
            self._meet()
            began = time.perf_counter()
            self._inner.append(0.0)
            try:
                return call(*args, **kwargs)
            finally:
                self._meet()
                self._note(label, method, time.perf_counter() - began)
                if name == STEP:
                    self.steps.append((self._kind(), (time.perf_counter() - began) * 1e3))
                    self.first_step = self.first_step or dict(self.seconds)

        setattr(owner, method, timed)

    def _meet(self) -> None:
        import torch

        if self.synchronizes and torch.cuda.is_available() and not torch.cuda.is_current_stream_capturing():
            torch.cuda.synchronize()

    def _note(self, label: str, method: str, took: float) -> None:
        inner = self._inner.pop()
        if self._inner:
            self._inner[-1] += took
        self.calls[label] += 1
        self.seconds[label] += took
        self.own[label] += took - inner
        self._now[method] += took

    def _kind(self) -> str:
        """The kind of the step that has just been trained."""
        for method, kind in MARKS.items():
            if self._now[method] > (SAVES if method == "save_if_due" else 0):
                return kind
        return "ordinary" if self._now["_launch"] else "without a graph"

    def summary(self) -> dict[str, Any]:
        """Everything, as it is printed and written."""
        size = max(1, -(-len(self.steps) // 4))
        quarters = [self.steps[start : start + size] for start in range(0, len(self.steps), size)]
        ordinary = [[ms for kind, ms in quarter if kind == "ordinary"] for quarter in quarters]
        kinds = Counter(kind for kind, _ in self.steps)
        return {
            "ordinary_ms_by_quarter": [statistics.median(each) if each else None for each in ordinary],
            "steps": {
                kind: {"number": number, "s": sum(ms for each, ms in self.steps if each == kind) / 1e3}
                for kind, number in kinds.items()
            },
            "first_step_s": {method: took for method, took in self.first_step.items() if took > SAVES},
            "parts": {
                label: {"calls": self.calls[label], "s": seconds, "own_s": self.own[label]}
                for label, seconds in sorted(self.seconds.items(), key=lambda entry: -entry[1])
            },
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scene", type=Path)
    parser.add_argument("--run", default="splatkit-3dgs:3000")
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--device-type", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--synchronize", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--trace", type=int, nargs=2, metavar=("FROM", "TO"), help="photographs")
    parser.add_argument("--trace-file", type=Path, default=Path("trace.json.gz"))
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    args = parser.parse_args()
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"
    from nerfstudio.scripts import train as script
    from train_gpu import method_config

    from splatkit_ns.plugin.run.processes.rank_processes import run_in_ranks

    config = method_config(args.scene.resolve(), args.run)
    config.machine.num_devices, config.machine.device_type = args.devices, args.device_type
    config.logging.local_writer.enable = False
    script._set_random_seed(config.machine.seed)
    with tempfile.TemporaryDirectory() as folder:
        config.output_dir = Path(folder)
        config.save_config()
        several = args.devices > 1
        found = run_in_ranks(config, measure, args, forks=True) if several else measure(config, args)
    show(found)
    if args.out:
        args.out.write_text(json.dumps({"scene": args.scene.name, "run": args.run, **found}, indent=1) + "\n")


def measure(config: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Train in this process, which may be one of several ranks; returns its figures."""
    times = Times(args.synchronize)
    for path in PARTS:
        times.watch(path)
    begun = time.time()
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    set_up = time.time()
    if args.trace and trainer._together.ranks.is_first:
        first, last = args.trace
        trace_steps(trainer, first, last, args.trace_file)
    memory = Memory(trainer, times) if args.memory else None
    began = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - began
    peaks = None if memory is None else trainer._together.ranks.gather_objects(memory.summary())
    return {
        "devices": args.devices,
        **({} if peaks is None else {"memory": peaks}),
        "until_rank_s": begun - BEGAN,
        "set_up_s": set_up - begun,
        "train_s": seconds,
        "gaussians": int(trainer.pipeline.model.num_points),
        **times.summary(),
    }


class Memory:
    """The largest memory of each kind of step on this GPU."""

    def __init__(self, trainer: Any, times: Times) -> None:
        import torch

        self._peaks: dict[str, dict[str, float]] = {}
        model, train_step = trainer.pipeline.model, trainer._train_step
        forward = trainer.training_step._forward_backward[0]
        self._reserved = 0.0

        def noted(step: int, last: int) -> None:
            torch.cuda.reset_peak_memory_stats()
            train_step(step, last)
            stats = torch.cuda.memory_stats()
            mib = stats["allocated_bytes.all.peak"] / 2**20
            self._reserved = max(self._reserved, stats["reserved_bytes.all.peak"] / 2**20)
            kind = times.steps[-1][0]
            if mib > self._peaks.get(kind, {}).get("mib", 0.0):
                graphs = [each.capacity for each in getattr(forward, "_graphs", {}).values()]
                now = stats["allocated_bytes.all.current"] / 2**20
                self._peaks[kind] = {
                    "mib": round(mib, 1),
                    "mib_after": round(now, 1),
                    "image": last + 1,
                    "gaussians": int(model.num_points),
                    "longest_list": int(getattr(getattr(forward, "meter", None), "length", 0)),
                    "list_space": max(graphs, default=0),
                }

        trainer._train_step = noted

    def summary(self) -> dict[str, Any]:
        """The peaks by kind of step and since the last step, and the memory that PyTorch had reserved, in MiB."""
        import torch

        at_end = round(torch.cuda.max_memory_allocated() / 2**20, 1)
        return {"reserved_mib": round(self._reserved, 1), "since_last_step_mib": at_end, **self._peaks}


def trace_steps(trainer: Any, first: int, last: int, path: Path) -> None:
    """Record what the GPU does between two photographs."""
    from torch.profiler import ProfilerActivity, profile

    train_step, profiler = trainer._train_step, profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA])
    state = {"is_on": False}

    def traced(step: int, last_image: int) -> None:
        train_step(step, last_image)
        if not state["is_on"] and first <= last_image < last:
            profiler.start()
            state["is_on"] = True
        elif state["is_on"] and last_image >= last:
            profiler.stop()
            profiler.export_chrome_trace(str(path))
            state["is_on"] = False

    trainer._train_step = lambda step, last: traced(step, last)


def show(found: dict[str, Any]) -> None:
    """Print the figures."""
    print(f"{found['until_rank_s']:.2f} s until a rank begins, {found['set_up_s']:.2f} s of set-up")
    print(f"training {found['train_s']:.2f} s, {found['gaussians']:,} Gaussians")
    medians = ["-" if each is None else f"{each:.2f}" for each in found["ordinary_ms_by_quarter"]]
    print(f"ordinary steps, milliseconds by quarter: {', '.join(medians)}")
    for kind, each in found["steps"].items():
        print(f"{each['number']:6d} steps {each['s']:8.2f} s  {kind}")
    for method, took in found["first_step_s"].items():
        print(f"{took:17.3f} s  {method} in the first step")
    for rank, peaks in enumerate(found.get("memory", [])):
        for kind, each in peaks.items():
            print(f"rank {rank}, {kind}: {each}")
    print(f"{'calls':>7} {'seconds':>9} {'own':>9}")
    for label, each in found["parts"].items():
        print(f"{each['calls']:7d} {each['s']:9.3f} {each['own_s']:9.3f}  {label}")


if __name__ == "__main__":
    main()
