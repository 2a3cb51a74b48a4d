"""Code that makes the host wait for the device: reads of a tensor's values, detected even if all runs on a CPU."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["SyncWatch", "locate"]

# On a CPU these calls reach no kernel, so that only the call itself can be detected.
COPIES = {"cpu", "numpy", "tolist", "__array__"}
KERNELS = {
    "aten::_local_scalar_dense": "reads a number",
    "aten::equal": "compares whole tensors",
    "aten::nonzero": "sizes its result by the data",
    "aten::masked_select": "sizes its result by the data",
    "aten::_unique2": "sizes its result by the data",
}
# one_hot with the number of classes reads its labels on a CPU, but not on a device.
ON_CPU_ALONE = "one_hot with classes"
TORCH = Path(torch.__file__).parent
MACHINERY = Path(__file__).parent.parent
REHEARSAL = Path(__file__).parent / "rehearsal.py"


class SyncWatch:
    """Counts host reads inside `with watch:` while `watch.hook` names the running hook; reads during None do not count.

    `found` maps "loss calls .item() at my_method.py:31" to the number of times that it happened.
    """

    def __init__(self) -> None:
        self.hook: str | None = None
        self.found: Counter[str] = Counter()
        self._call = ""
        self._modes = ExitStack()

    def __enter__(self) -> SyncWatch:
        self._modes.enter_context(_Kernels(self))
        self._modes.enter_context(_Calls(self))
        return self

    def __exit__(self, *_: object) -> None:
        self._modes.close()

    def note(self, what: str) -> None:
        """Count one host read of the running hook."""
        if self.hook is not None:
            self.found[f"{self.hook} {what} at {locate(_stack(sys._getframe(1)))}"] += 1

    @contextmanager
    def inside(self, call: str) -> Iterator[None]:
        """Remember the outermost running torch function, which explains the kernels below it."""
        before, self._call = self._call, call
        try:
            yield
        finally:
            self._call = before

    def kernel(self, name: str, why: str) -> None:
        """Count a kernel that waits for the device, unless it does so on a CPU only."""
        if self._call == ON_CPU_ALONE:
            return
        spoken = {"__bool__": "bool()", "__float__": "float()", "__int__": "int()", "__index__": "int()"}
        call = spoken.get(self._call, f".{self._call}()") if self._call else name
        self.note(f"calls {call}, which {why},")


class _Calls(TorchFunctionMode):
    def __init__(self, watch: SyncWatch) -> None:
        super().__init__()
        self.watch = watch

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        asked = [value for value in (*args[1:], *(kwargs or {}).values()) if isinstance(value, str)]
        if name in COPIES or (name == "to" and "cpu" in asked):
            self.watch.note(f"calls .{name}(), which copies to the host,")
        told = name == "one_hot" and (len(args) > 1 or kwargs)
        with self.watch.inside(ON_CPU_ALONE if told else name):
            return func(*args, **(kwargs or {}))


class _Kernels(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, watch: SyncWatch) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.watch = watch

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        if name in KERNELS:
            self.watch.kernel(name, KERNELS[name])
        elif name == "aten::index" and any(isinstance(i, Tensor) and i.dtype == torch.bool for i in args[1]):
            self.watch.kernel("a boolean mask", "sizes its result by the data")
        return func(*args, **(kwargs or {}))


def locate(frames: Iterable[tuple[str, int]]) -> str:
    """Return `file:line` of the innermost frame outside torch and the machinery, or of the innermost frame of all.

    `frames` are files and lines, outermost first.
    """
    known = list(frames)
    foreign = [frame for frame in known if not _is_ours(Path(frame[0]))]
    named = foreign or known
    return f"{Path(named[-1][0]).name}:{named[-1][1]}" if named else "an unknown place"


def _is_ours(path: Path) -> bool:
    if path.is_relative_to(MACHINERY / "methods"):
        return False
    return path.is_relative_to(TORCH) or path.is_relative_to(MACHINERY) or path.name.startswith("<")


def _stack(frame: FrameType | None) -> list[tuple[str, int]]:
    """Frames from the hook's caller inwards, without those that called the rehearsal."""
    frames: list[tuple[str, int]] = []
    while frame is not None and Path(frame.f_code.co_filename) != REHEARSAL:
        frames.append((frame.f_code.co_filename, frame.f_lineno))
        frame = frame.f_back
    return frames[::-1]
