"""Kill a rank of a run on several GPUs at a random moment, and resume the run, many times.

    python benchmarks/kill_ranks.py SCENE --kills 20 --at-once 10 --devices 2
    python benchmarks/kill_ranks.py SCENE --kills 2 --at-once 1 --devices 2 --device-type cpu
    python benchmarks/kill_ranks.py SCENE --kills 2 --at-once 1 --devices 1 --machines 2

Each run is ``ns-train`` with a checkpoint every 100 photographs. From its first checkpoint on, a random rank gets
SIGKILL after a random time, which may be within a save; some wait for one (--in-saves). Then the command has to end
within 60 seconds, with status 1 and a message that names the rank; its last checkpoint has to be whole; and a second
command has to resume from it, and to reach its end. Status 1 if anything else happens. Several runs may share the same
GPUs. With ``--machines``, each run is that many commands on this host, with GPUs of their own and no folder in common;
all have to end so.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import psutil

from splatkit_ns.files import TEMPORARY_PREFIX

PATIENCE = 60.0
"""Seconds that the others have to end after one has been killed."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scene", type=lambda path: Path(path).resolve())
    parser.add_argument("--method", default="splatkit-3dgs")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--at-once", type=int, default=10)
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--machines", type=int, default=1)
    parser.add_argument("--device-type", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--span", type=float, default=15.0, help="seconds after the first checkpoint to kill within")
    parser.add_argument("--in-saves", type=int, default=0, help="kills that wait until a checkpoint is being written")
    parser.add_argument("--resume-with", type=int, nargs="+", help="numbers of devices, one run after the other")
    parser.add_argument("--more", type=int, default=200, help="photographs to train after resuming")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    args = parser.parse_args()
    numbers = random.Random(args.seed)
    plans = [
        (numbers.randrange(args.devices * args.machines), numbers.uniform(0, args.span)) for _ in range(args.kills)
    ]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(args.at_once) as threads:
        jobs = [
            threads.submit(kill_and_resume, args, Path(folder, str(i)), *plan, i < args.in_saves)
            for i, plan in enumerate(plans)
        ]
        rows = []
        for job in as_completed(jobs):
            rows.append(job.result())
            print(json.dumps(rows[-1]), flush=True)
    failed = [row for row in rows if row["fault"]]
    slowest = max(row["seconds_to_end"] for row in rows)
    print(f"{len(rows) - len(failed)} of {len(rows)} as expected; the others ended after {slowest:.1f} s at most.")
    if args.out:
        args.out.write_text(json.dumps(rows, indent=1) + "\n")
    return 1 if failed else 0


def kill_and_resume(args: argparse.Namespace, folder: Path, rank: int, delay: float, in_save: bool) -> dict[str, Any]:
    """One run, of which a rank is killed; its row says what is wrong in ``fault``, if anything is."""
    folder.mkdir()
    row: dict[str, Any] = {"rank": rank, "delay": round(delay, 2), "fault": "", "seconds_to_end": 0.0}
    checkpoints = folder / "out/x" / args.method / "run/nerfstudio_models"
    commands = start(args, folder, "first", 10**6)
    began = time.monotonic()
    while not list(checkpoints.glob("step-*.ckpt")):
        time.sleep(0.05)
        if any(each.poll() is not None for each in commands) or time.monotonic() - began > 300:
            end(commands)
            return {**row, "fault": f"it did not begin: {tail(folder / 'first.log')}"}
    machine, local_rank = divmod(rank, args.devices)
    victim = ranks_of(psutil.Process(commands[machine].pid))[local_rank]
    time.sleep(delay)
    wait_until = time.monotonic() + PATIENCE
    while in_save and not is_saving(checkpoints) and time.monotonic() < wait_until:
        time.sleep(0.001)
    victim.send_signal(signal.SIGKILL)
    killed = time.monotonic()
    row["in_save"] = is_saving(checkpoints)
    try:
        statuses = [each.wait(max(0.0, killed + PATIENCE - time.monotonic())) for each in commands]
    except subprocess.TimeoutExpired:
        end(commands)
        return {**row, "fault": f"it did not end: {tail(folder / 'first.log')}", "seconds_to_end": PATIENCE}
    row["seconds_to_end"] = round(time.monotonic() - killed, 1)
    for i, status in enumerate(statuses):
        log = (folder / log_name("first", i)).read_text()
        message = " ".join(log[log.rfind("Error:") :].split())
        row["message"] = message[:160]
        number = args.devices * args.machines
        if status != 1 or not re.match(rf"Error: Rank {rank} of {number} .*was killed by SIGKILL", message):
            return {**row, "fault": f"status {status}: {tail(folder / log_name('first', i))}"}
    last = max(int(path.stem.split("-")[1]) for path in checkpoints.glob("step-*.ckpt")) + 1
    row["images"] = last
    for devices in args.resume_with or [args.devices]:
        name, last = f"after_{last}", last + args.more
        resumed = start(args, folder, name, last, "--load-dir", str(checkpoints), devices=devices)
        status = max(each.wait() for each in resumed)
        log = (folder / f"{name}.log").read_text()
        if status != 0 or f"Resuming after step {name.removeprefix('after_')}" not in log:
            fault = f"resuming with {devices} ended with status {status}: {tail(folder / f'{name}.log')}"
            return {**row, "fault": fault}
        checkpoints = checkpoints.parents[1] / name / "nerfstudio_models"
        last = max(int(path.stem.split("-")[1]) for path in checkpoints.glob("step-*.ckpt")) + 1
    return row


def start(
    args: argparse.Namespace, folder: Path, name: str, steps: int, *more: str, devices: int | None = None
) -> list[subprocess.Popen[bytes]]:
    """Start ``ns-train`` with a number of devices on each machine; its output goes into a file of this name."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
    return [
        start_machine(args, folder, name, i, url, steps, *more, devices=devices or args.devices)
        for i in range(args.machines)
    ]


def start_machine(
    args: argparse.Namespace, folder: Path, name: str, machine: int, url: str, steps: int, *more: str, devices: int
) -> subprocess.Popen[bytes]:
    """Start the command of one machine."""
    out = "out" if machine == 0 else f"out_{machine}"
    command = [sys.executable, "-m", "nerfstudio.scripts.train", args.method, "--vis", "none", "--output-dir", out]
    command += ["--experiment-name", "x", "--timestamp", "run" if name == "first" else name, "--steps-per-save", "100"]
    command += ["--machine.num-devices", str(devices), "--machine.device-type", args.device_type]
    command += ["--max-num-iterations", str(steps), "--steps-per-eval-all-images", "0", *more]
    settings = environment()
    if args.machines > 1:
        command += ["--machine.num-machines", str(args.machines), "--machine.machine-rank", str(machine)]
        command += ["--machine.dist-url", url]
        if args.device_type == "cuda":
            gpus = (os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(64)))).split(",")
            settings["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[machine * devices : (machine + 1) * devices])
    command += ["--data", str(args.scene)]
    with (folder / log_name(name, machine)).open("w") as log:
        return subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT, env=settings)


def log_name(name: str, machine: int) -> str:
    """The file for the output of the command of one machine."""
    return f"{name}.log" if machine == 0 else f"{name}_{machine}.log"


def end(commands: list[subprocess.Popen[bytes]]) -> None:
    """Kill commands, whose ranks then end."""
    for each in commands:
        each.kill()


def environment() -> dict[str, str]:
    """Ours, in which nerfstudio finds the methods of a checkout that is not installed, too, and a rank that aborts says
    what its threads were doing."""
    names = [f"splatkit-{name}" for name in ("3dgs", "3dgs-adc", "3dgs-mcmc", "3dgs-fast", "3dgs-big", "2dgs")]
    methods = ",".join(f"{name}=splatkit_ns.methods:{name.replace('-', '_')}" for name in names)
    return {**os.environ, "NERFSTUDIO_METHOD_CONFIGS": methods, "COLUMNS": "400", "PYTHONFAULTHANDLER": "1"}


def is_saving(checkpoints: Path) -> bool:
    """Whether a checkpoint is being written, or one was when its writer was killed."""
    return any(checkpoints.glob(f"{TEMPORARY_PREFIX}*"))


def ranks_of(command: psutil.Process) -> list[psutil.Process]:
    """The ranks that a command has started: they have imported PyTorch, and started none that has."""
    large = [child for child in command.children(recursive=True) if child.memory_info().rss > 300 * 2**20]
    servers = {child.ppid() for child in large}
    return sorted((child for child in large if child.pid not in servers), key=lambda child: child.create_time())


def tail(path: Path) -> str:
    """The end of a log, and before it what PyTorch said when it gave up an exchange on GPUs, and what the threads of
    such ranks were doing."""
    text = path.read_text()
    told = re.findall(
        r"\[[^\]\n]*rank\d[^\]\n]*\][^\n]*Watchdog caught[^\n]{0,400}"
        r"|terminate called[^\n]{0,200}|last enqueued[^\n]{0,300}|Fatal Python error(?:.*\n){1,80}",
        text,
        re.IGNORECASE,
    )
    return "\n".join([*dict.fromkeys(told), text[-1500:]])


if __name__ == "__main__":
    sys.exit(main())
