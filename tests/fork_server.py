"""Run Python code in processes of its own, as ``python -c`` would, without the seconds that importing torch takes.

A server process imports torch once and forks for each piece of code. It has started no threads, and a forked process
has its own arguments, environment and output, and ends as any Python process does.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def run_code(
    code: str, *arguments: str, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run code in a process that has imported torch, and nothing that depends on torch.

    Args:
        code: what would stand behind ``python -c``.
        arguments: ``sys.argv[1:]``.
        cwd: working directory; that of this process if None.
        environment: variables on top of this process's.
    """
    folder = tempfile.TemporaryDirectory()
    with folder:
        out, err = Path(folder.name, "out"), Path(folder.name, "err")
        request = {
            "code": code, "argv": ["-c", *arguments], "cwd": str(cwd or Path.cwd()),
            "environment": {**os.environ, **environment}, "out": str(out), "err": str(err),
        }  # fmt: skip
        status = _server().request(request)
        return subprocess.CompletedProcess(request["argv"], status, out.read_text(), err.read_text())


class _Server:
    def __init__(self) -> None:
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fork_server"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"},  # numpy's would start at its import
        )  # fmt: skip

    def request(self, request: dict[str, Any]) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, "the fork server has ended"
        return int(answer)


@functools.cache
def _server() -> _Server:
    """One for this process; it ends with it, when its standard input closes."""
    return _Server()


def _serve() -> str:
    """Fork at each request, and report the exit status; returns in the forked processes only, what each has to run."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")  # not inherited by programs that a child starts
    for line in sys.stdin:
        request = json.loads(line)
        assert len(os.listdir("/proc/self/task")) == 1, "a fork copies one thread only"
        pid = os.fork()
        if pid == 0:
            os.close(answers.fileno())
            _become(request)
            return request["code"]
        _, status = os.waitpid(pid, 0)
        answers.write(f"{os.waitstatus_to_exitcode(status)}\n")
        answers.flush()
    sys.exit()


def _become(request: dict[str, Any]) -> None:
    """Look like a process that has just been started."""
    for descriptor, name, flags in ((0, os.devnull, os.O_RDONLY), (1, request["out"], None), (2, request["err"], None)):
        opened = os.open(name, os.O_WRONLY | os.O_CREAT if flags is None else flags, 0o600)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv[:] = request["argv"]
    sys.path[0] = ""


if __name__ == "__main__":
    import torch  # noqa: F401

    assert "triton" not in sys.modules, "it decides when it is imported whether it interprets"
    exec(compile(_serve(), "<string>", "exec"), {"__name__": "__main__"})
