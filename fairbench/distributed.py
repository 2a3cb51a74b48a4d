"""The processes that torchrun starts for one command: joining, exchanging values and adding tensors up.

Without torchrun, or with one process, there is no group: the world size is 1, the rank is 0, and the functions return
at once without effect.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import Store, _get_default_store

from fairbench.errors import FairbenchError, Interrupted, InvalidInput, OtherRankFailed

__all__ = [
    "KEPT",
    "add_up",
    "exchange",
    "gather_rows",
    "joined",
    "launched",
    "listen",
    "rank",
    "rows",
    "tell",
    "world",
]

KEPT = "what was finished is kept, the same command goes on from there"

# Seconds that a rank waits inside a step for a rank that does not answer. A dead rank is noticed at once.
_TIMEOUT = "FAIRBENCH_RANK_TIMEOUT"
_SECONDS = 600.0
# Time limit while ranks wait for another rank's batch of images under attack, which may take hours.
_PATIENCE = timedelta(days=7)
_POLL_SECONDS = 0.02
_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_FAILED = "fairbench/failed"


@dataclass
class _Group:
    """The joined ranks; `patient` carries values on the CPU, and `told` counts the messages of rank 0.

    `after` says what the user has when a rank is lost.
    """

    rank: int
    world: int
    store: Store
    patient: dist.ProcessGroup
    after: str
    told: int = 0


_group: _Group | None = None


def launched() -> bool:
    """Tell whether torchrun, or a launcher that sets the same variables, started this process as one of several."""
    return os.environ.get("WORLD_SIZE", "1") != "1" and all(name in os.environ for name in _VARIABLES)


def rank() -> int:
    """Return this process's number in the group, 0 without a group."""
    return 0 if _group is None else _group.rank


def world() -> int:
    """Return the number of processes in the group, 1 without a group."""
    return 1 if _group is None else _group.world


@contextmanager
def joined(after: str = KEPT) -> Iterator[None]:
    """Join torchrun's ranks inside the block: gloo on CPUs, NCCL on CUDA devices, one device per rank.

    A failure on any rank ends all of them: the first rank to fail raises its error, the others exit silently by
    OtherRankFailed. When a rank is gone or does not answer within FAIRBENCH_RANK_TIMEOUT seconds (600), FairbenchError
    says so and adds the text of `after`. A nested block has no effect. Raises InvalidInput for variables that describe
    no ranks, and when there are fewer devices than ranks.
    """
    global _group
    if not launched() or _group is not None:
        yield
        return
    _group = _join(after)
    try:
        yield
        _leave(_group)
    except BaseException as error:
        _end(_group, error)
    finally:
        _group = None


def tell(message: Mapping[str, Any] | None) -> None:
    """Send what rank 0 does next to the other ranks as JSON values, or None when rank 0 is done; see `listen`."""
    if _group is not None:
        _group.store.set(f"fairbench/told/{_group.told}", json.dumps(message))
        _group.told += 1


def listen() -> Iterator[Any]:
    """Yield the messages of rank 0 on the other ranks until rank 0 is done; end the process when another rank failed.

    Waiting has no time limit here: rank 0 may wait for a lock or work alone.
    """
    assert _group is not None
    while True:
        key = f"fairbench/told/{_group.told}"
        while not _group.store.check([key]):
            if _group.store.check([_FAILED]):
                raise OtherRankFailed(FairbenchError.exit_code)
            time.sleep(_POLL_SECONDS)
        _group.told += 1
        message = json.loads(_group.store.get(key))
        if message is None:
            return
        yield message


def exchange(value: Any) -> list[Any]:
    """Return every rank's value, in JSON types, in the order of the ranks; all ranks must call this."""
    if _group is None:
        return [value]
    sent = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(_group.world)]
    dist.all_gather(sizes, torch.tensor([len(sent)]), group=_group.patient)
    padded = torch.zeros(max(int(size) for size in sizes), dtype=torch.uint8)
    padded[: len(sent)] = sent
    found = [torch.empty_like(padded) for _ in range(_group.world)]
    dist.all_gather(found, padded, group=_group.patient)
    return [json.loads(bytes(part[: int(size)].numpy())) for part, size in zip(found, sizes, strict=True)]


def add_up(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor by its sum over the ranks, with equal bits on all of them; does nothing without a group."""
    if _group is not None:
        for tensor in tensors:
            dist.all_reduce(tensor)


def rows(count: int) -> slice:
    """This rank's slice of `count` rows; the slices are consecutive and their lengths differ by at most one."""
    return _rows(count, rank())


def gather_rows(part: Tensor, count: int) -> Tensor:
    """Return [count, ...] from every rank's [rows(count), ...], without gradient; `count` is at least the world."""
    sizes = [_rows(count, other).stop - _rows(count, other).start for other in range(world())]
    raw = part.detach().reshape(len(part), -1).contiguous().view(torch.uint8)  # bytes of any number type
    sent = raw.new_zeros(max(sizes), raw.shape[1])
    sent[: len(raw)] = raw
    found = [torch.empty_like(sent) for _ in sizes]
    dist.all_gather(found, sent)
    whole = torch.cat([rows[:size] for rows, size in zip(found, sizes, strict=True)])
    return whole.view(part.dtype).view(count, *part.shape[1:])


def _rows(count: int, rank: int) -> slice:
    return slice(count * rank // world(), count * (rank + 1) // world())


def _join(after: str) -> _Group:
    try:
        me, all_of_us = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        seconds = float(os.environ.get(_TIMEOUT, _SECONDS))
    except ValueError as error:
        raise InvalidInput(f"RANK, WORLD_SIZE and {_TIMEOUT} are numbers: {error}") from None
    if not 0 <= me < all_of_us or not 0 < seconds < _PATIENCE.total_seconds():
        raise InvalidInput(f"rank {me} of {all_of_us} with {_TIMEOUT} {seconds:g} cannot be")
    timeout = timedelta(seconds=seconds)
    _take_device()
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=timeout)
        patient = dist.new_group(backend="gloo", timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise FairbenchError(f"rank {me} of {all_of_us} cannot join the others: {_first_line(error)}") from error
    store = _get_default_store()
    assert isinstance(patient, dist.ProcessGroup)  # this rank is a member
    return _Group(dist.get_rank(), dist.get_world_size(), store, patient, after)


def _take_device() -> None:
    """Bind "cuda" to this rank's own device; raises InvalidInput if there are fewer devices than ranks."""
    if not torch.cuda.is_available():
        return
    local, devices = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local >= devices:
        raise InvalidInput(
            f"rank {local} of this machine has no CUDA device to itself: there are {devices}; start as many ranks, or "
            "hide the devices with CUDA_VISIBLE_DEVICES= to run on CPUs"
        )
    torch.cuda.set_device(local)


def _leave(group: _Group) -> None:
    """Leave the group together: the rank that hosts the store must not exit while another still uses it."""
    dist.barrier(group=group.patient)
    dist.destroy_process_group()


def _end(group: _Group, error: BaseException) -> NoReturn:
    """Raise the error of the first rank to fail; ranks that fail with it or because of it exit silently."""
    if isinstance(error, OtherRankFailed):
        raise error
    with suppress(RuntimeError):  # the store may have ended with its host
        if group.store.add(_FAILED, 1) > 1:
            raise OtherRankFailed(getattr(error, "exit_code", _exit_code(error))) from error
    if isinstance(error, RuntimeError) and (isinstance(error, dist.DistError) or "gloo" in str(error).lower()):
        raise FairbenchError(
            f"rank {group.rank}: another rank is gone or does not answer ({_first_line(error)}); {group.after}"
        ) from error
    raise error


def _exit_code(error: BaseException) -> int:
    return FairbenchError.exit_code if isinstance(error, Exception | SystemExit) else Interrupted.exit_code


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
