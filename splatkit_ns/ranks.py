"""The processes that train one run together. Nothing else in the package imports `torch.distributed`."""

from __future__ import annotations

import os
import pickle
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from typing import Any, ClassVar, TypeVar

import psutil
import torch
import torch.distributed as dist
from torch import Tensor

from splatkit_ns.rank_lines import RankLines

T = TypeVar("T")

PATIENCE = timedelta(days=7)
"""The longest wait for another rank on the CPU: rank 0 may evaluate, save, or be paused in the viewer. A rank that has
ended is noticed at once, because its connections close."""
GPU_PATIENCE = timedelta(seconds=180)
"""The longest wait for another rank's GPU; every such wait begins when all ranks have said that they are ready.

A rank that has ended is noticed sooner. This is for GPUs that stand still, and longer than other runs may hold them up.
"""
BREATH = timedelta(seconds=0.5)
"""The time after which a wait on the CPU looks whether `give_up` was called."""

_gives_up = threading.Event()


class RankLost(RuntimeError):
    """Another rank has ended, so that this one cannot go on."""


@dataclass(frozen=True)
class Ranks:
    """The rank of this process among those that train one run, and what the ranks exchange.

    Every method is a collective: all ranks have to call it, in the same order. With one rank each
    returns at once. All raise `RankLost` if another rank has ended.
    """

    rank: int = 0
    """The number of this process, from 0; rank 0 writes files, evaluates and logs."""
    size: int = 1
    """The number of processes."""
    _group: Any = field(default=None, repr=False, compare=False)
    """The process group for tensors on the device of the training; use `_data`."""
    _leading: Any = field(default=None, repr=False, compare=False)
    """The process group, on the CPU, for messages of rank 0 that other ranks may call for at other moments."""
    _control: Any = field(default=None, repr=False, compare=False)
    """The process group, on the CPU, for agreements."""
    _connecting: Future[None] | None = field(default=None, repr=False, compare=False)
    """Done when the GPUs of the ranks are connected; None if they are not connected ahead."""
    _on_machine: int | None = None
    """See `on_machine`; None if all are on this machine."""
    _lines: RankLines | None = field(default=None, repr=False, compare=False)
    """Connections for numbers; None means that the process group for agreements is used."""

    _started: ClassVar[Ranks | None] = None

    @classmethod
    def current(cls) -> Ranks:
        """The ranks of the process group that has been started; one process if there is none."""
        if not dist.is_available() or not dist.is_initialized():
            return cls()
        if Ranks._started is None:
            device_type = "cuda" if dist.get_backend() == "nccl" else "cpu"
            Ranks._started = cls._with_groups(device_type, dist.get_world_size())
        return Ranks._started

    @classmethod
    def start(
        cls, rank: int, size: int, device_type: str, port: int, host: str = "127.0.0.1", on_machine: int | None = None
    ) -> Ranks:
        """Join the other processes of a run.

        GPUs are connected in the background, which takes NCCL a second or two, while the caller reads its data.

        Args:
            rank: the number of this process.
            size: the number of processes.
            device_type: the device of the training, "cuda" (NCCL) or "cpu" (gloo).
            port: where `serve` listens.
            host: the machine where it listens.
            on_machine: the number of processes on this machine; None means all.

        Raises:
            RankLost: not all have come, or the machine with `serve` has ended.
        """
        # each rank captures its graphs for itself; NCCL would let their buffers know each other at every capture
        os.environ.setdefault("NCCL_GRAPH_REGISTER", "0")
        on_machine = on_machine or size
        if on_machine < size:
            _talk_towards(host, port)
        Ranks._started = _guarded(partial(cls._join, rank, size, device_type, port, host, on_machine))
        return Ranks._started

    @classmethod
    def _join(cls, rank: int, size: int, device_type: str, port: int, host: str, on_machine: int) -> Ranks:
        store = _store_class()(host, port, is_master=False, timeout=timedelta(seconds=300))
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=PATIENCE)
        found = cls._with_groups(device_type, on_machine, ahead=device_type == "cuda")
        return found if found.are_on_several_machines else replace(found, _lines=RankLines.connect(rank, size, store))

    @classmethod
    def _with_groups(cls, device_type: str, on_machine: int, ahead: bool = False) -> Ranks:
        if device_type == "cuda":
            data = dist.new_group(backend="nccl", timeout=GPU_PATIENCE, pg_options=_first_on_gpu())
        else:
            data = dist.new_group(backend="gloo", timeout=PATIENCE)
        leading, control = (dist.new_group(backend="gloo", timeout=PATIENCE) for _ in range(2))
        connecting = ThreadPoolExecutor(1).submit(_connect, data, dist.get_world_size()) if ahead else None
        return cls(dist.get_rank(), dist.get_world_size(), data, leading, control, connecting, _on_machine=on_machine)

    @property
    def _data(self) -> Any:
        """The process group for tensors on the device of the training, connected."""
        if self._connecting is not None:
            _guarded(self._connecting.result)
        return self._group

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which alone writes files, evaluates and logs."""
        return self.rank == 0

    @property
    def on_machine(self) -> int:
        """The number of processes on this machine."""
        return self._on_machine or self.size

    @property
    def are_on_several_machines(self) -> bool:
        """Whether some of the processes are on other machines."""
        return self.on_machine < self.size

    @property
    def is_lost(self) -> bool:
        """Whether another rank is known to have ended."""
        return _gives_up.is_set() or (self._lines is not None and self._lines.is_closed())

    # ------------------------------------------------------------------ tensors on the device of the training

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its mean over the ranks, in place, in one exchange; every rank gets the same bits.

        Args:
            tensors: contiguous, of the same shapes on all ranks.
        """
        self.average_later(tensors)()

    def average_later(self, tensors: Sequence[Tensor]) -> Callable[[], None]:
        """Begin to `average`; the function that is returned waits for the end, and may raise `RankLost`, too."""
        if self.size == 1:
            return lambda: None
        is_cuda = any(tensor.is_cuda for tensor in tensors)
        options = _averaging(is_cuda)
        begun: list[Any] = []
        for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
            alike = [tensor for tensor in tensors if tensor.dtype == dtype]
            begun.append(_guarded(partial(self._data.allreduce_coalesced, alike, options)))

        def wait() -> None:
            for work in begun:
                _finish(work, is_cuda)
            if not is_cuda:
                for tensor in tensors:
                    tensor.div_(self.size)

        return wait

    def gather_tensors(self, tensor: Tensor) -> Tensor:
        """Stack the tensors of all ranks, in the order of the ranks.

        Args:
            tensor: contiguous, on a GPU, of the same shape on all ranks.
        """
        every = tensor.new_empty(self.size, *tensor.shape)
        if self.size == 1:
            return every.copy_(tensor[None])
        _guarded(lambda: _gather_at_once(self._data, every, tensor))
        return every

    def add(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over the ranks, in place; every rank gets the same bits."""
        if self.size > 1:
            self._finish_all_reduce(tensor, dist.ReduceOp.SUM)

    def maximum(self, tensor: Tensor) -> None:
        """Replace a tensor by its largest value over the ranks, element by element, in place."""
        if self.size > 1:
            self._finish_all_reduce(tensor, dist.ReduceOp.MAX)

    def _finish_all_reduce(self, tensor: Tensor, op: Any) -> None:
        work = _guarded(lambda: dist.all_reduce(tensor, op=op, group=self._data, async_op=True))
        _finish(work, tensor.is_cuda)

    def copy_first(self, tensor: Tensor) -> None:
        """Give a tensor the values that it has on rank 0, in place."""
        if self.size > 1:
            work = _guarded(lambda: dist.broadcast(tensor, src=0, group=self._data, async_op=True))
            _finish(work, tensor.is_cuda)

    def await_devices(self) -> None:
        """Wait until the devices of all ranks have done all exchanges: from then on a rank may end.

        The kernel of an exchange on a GPU ends with its process; others would then wait for it until they are killed.
        """
        if self.size == 1:
            return
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        self.gather([0])

    # ------------------------------------------------------------------ agreements

    def gather(self, numbers: Sequence[int]) -> list[list[int]]:
        """The numbers of each rank, in the order of the ranks; all ranks give as many."""
        return self.gather_later(numbers)()

    def gather_later(self, numbers: Sequence[int]) -> Callable[[], list[list[int]]]:
        """Begin to `gather`; the function that is returned waits for the numbers, and may raise `RankLost`, too."""
        if self.size == 1:
            return lambda: [list(numbers)]
        if self._lines is not None:
            told = _guarded(partial(self._lines.gather_later, numbers))
            return lambda: _guarded(told)
        ours = torch.tensor(numbers, dtype=torch.int64)
        every = ours.new_empty(self.size * len(ours))
        work: Any = _guarded(partial(self._control._allgather_base, every, ours))

        def wait() -> list[list[int]]:
            _finish(work)
            return every.view(self.size, -1).tolist()

        return wait

    def gather_objects(self, value: T) -> list[T]:
        """The value of each rank, in the order of the ranks; any that can be pickled."""
        if self.size == 1:
            return [value]
        ours = _packed(value)
        lengths = [length for (length,) in self.gather([len(ours)])]
        places = [torch.empty(max(lengths), dtype=torch.uint8) for _ in lengths]
        padded = torch.cat([ours, ours.new_zeros(max(lengths) - len(ours))])
        _finish(_guarded(partial(self._control.allgather, [places], [padded])))
        return [_unpacked(place[:length]) for place, length in zip(places, lengths, strict=True)]

    def message_of_first(self, message: Any = None) -> Any:
        """The next message of rank 0, which gives it; the other ranks call this when they are ready for it."""
        if self.size == 1:
            return message
        sent = _packed(message) if self.is_first else None
        length = torch.tensor([0 if sent is None else len(sent)])
        self._copy_message(length)
        if sent is None:
            sent = torch.empty(int(length), dtype=torch.uint8)
        self._copy_message(sent)
        return message if self.is_first else _unpacked(sent)

    def _copy_message(self, tensor: Tensor) -> None:
        _finish(_guarded(lambda: dist.broadcast(tensor, src=0, group=self._leading, async_op=True)))


ONE_RANK = Ranks()
"""A run of one process."""


def serve(port: int = 0) -> Any:
    """Let processes of this machine find each other; keep the result, whose `port` they need, while they run.

    Args:
        port: where to listen; 0 takes a free one.

    Raises:
        OSError: the port is in use.
    """
    try:
        return _store_class()("127.0.0.1", port, is_master=True, wait_for_workers=False)
    except RuntimeError as error:
        raise OSError(f"port {port} is in use") from error


def connect(host: str, port: int) -> Any:
    """A client of `serve` on another machine; it waits for ever if another program listens there.

    Raises:
        OSError: there is none.
    """
    try:
        return _store_class()(host, port, is_master=False, timeout=timedelta(seconds=10))
    except RuntimeError as error:
        raise OSError(f"nothing that is of a run answers at {host}:{port}") from error


def give_up() -> None:
    """Let this rank no longer wait on the CPU for others, which are known to be lost: waits raise `RankLost`."""
    _gives_up.set()


def _talk_towards(host: str, port: int) -> None:
    """Let gloo use the network that leads to another machine; by default it is the one that our own name stands for,
    which is that of this machine alone on many systems. A user's choice stays."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, port))  # sends nothing
            ours = probe.getsockname()[0]
    except OSError:  # no IPv4: then the user has to choose
        return
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address == ours for each in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


def _store_class() -> Any:
    return getattr(dist, "TCPStore")  # noqa: B009  # documented, but not in __all__


def _connect(group: Any, size: int) -> None:
    """Exchange some megabytes on the GPUs in the ways that training does, for NCCL to connect them."""
    tensor = torch.zeros(2**20, device="cuda")
    group.allreduce_coalesced([tensor], _averaging(is_cuda=True)).wait()
    _gather_at_once(group, tensor.new_empty(size, len(tensor)), tensor)


def _first_on_gpu() -> Any:
    """Options of NCCL: kernels of an exchange start before others that are ready, and a wait has a limit."""
    options: Any = getattr(dist, "ProcessGroupNCCL").Options()  # noqa: B009  # as `_store_class`
    options.is_high_priority_stream = True
    options._timeout = GPU_PATIENCE
    return options


def _averaging(is_cuda: bool) -> Any:
    """Options of an exchange that averages; gloo has no means, so it adds up."""
    options = dist.AllreduceCoalescedOptions()
    options.reduceOp = dist.ReduceOp.AVG if is_cuda else dist.ReduceOp.SUM
    return options


def _packed(value: Any) -> Tensor:
    return torch.frombuffer(bytearray(pickle.dumps(value)), dtype=torch.uint8)


def _unpacked(content: Tensor) -> Any:
    return pickle.loads(content.numpy().tobytes())


def _finish(work: Any, is_cuda: bool = False) -> None:
    """Wait for the end of an exchange.

    Raises:
        RankLost: another rank has ended, or `give_up` was called.
    """
    if is_cuda:  # its end is awaited by the GPU
        _guarded(work.wait)
        return None
    while True:
        try:
            work.wait(BREATH)
            return None
        except RuntimeError as error:
            if work.is_completed():
                return _guarded(work.wait)
            if _gives_up.is_set():
                raise RankLost("Another process of this run is lost.") from error


def _gather_at_once(group: Any, every: Tensor, tensor: Tensor) -> None:
    """Stack the tensors of all ranks, without a stream of its own, as the next kernel waits for it anyway.

    The group's own method is used, because the function around it takes longer than NCCL.
    """
    options: Any = getattr(dist.distributed_c10d, "AllgatherOptions")()  # noqa: B009  # as `_store_class`
    if hasattr(options, "asyncOp"):  # since PyTorch 2.8
        options.asyncOp = False
    work = group._allgather_base(every, tensor, options)
    if work is not None:
        work.wait()


def _guarded(call: Callable[[], T]) -> T:
    try:
        return call()
    except (RuntimeError, OSError) as error:
        raise RankLost("Another process of this run has ended.") from error
