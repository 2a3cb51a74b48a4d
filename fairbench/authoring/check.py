"""The check of a method's contract: every hook runs on generated data, and each breach is one line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from fairbench import registry
from fairbench.authoring.checks import CHECKS
from fairbench.errors import FairbenchError
from fairbench.method.composition import resolve_method
from fairbench.suites.sections import MethodSpec

__all__ = ["HookFinding", "check_method"]

NECESSARY = ("setup", "attack", "loss")


@dataclass(frozen=True)
class HookFinding:
    """The result of one check: its name, whether it holds, and the observation in one line."""

    check: str
    passed: bool
    detail: str

    def __str__(self) -> str:
        return f"{'ok' if self.passed else 'FAILED':<7} {self.check:<28} {self.detail}".rstrip()


def check_method(name: str) -> list[HookFinding]:
    """Run every hook of a method, or of a composition `base+policy`, on generated data; takes seconds on a CPU.

    No file is written. If the method cannot be set up or take a single step, the checks that depend on that are left
    out. Raises UnknownName; any exception of the plug-in is a finding.
    """
    base, *policies = name.split("+")
    registry.methods.entry(base)
    for policy in policies:
        registry.policies.entry(policy)
    try:
        spec = resolve_method(name)
    except Exception as error:
        return [HookFinding("parts", False, _reason(error))]
    findings = [HookFinding("parts", True, " + ".join([spec.base, *spec.policies]))]
    with torch.random.fork_rng(devices=[]), _one_thread():
        for title, examine in CHECKS.items():
            findings.append(_examine(title, examine, spec))
            if title in NECESSARY and not findings[-1].passed:
                break
    return findings


@contextmanager
def _one_thread() -> Iterator[None]:
    """Use one thread: with several threads networks of this size are many times slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _examine(title: str, examine: Callable[[MethodSpec], str], spec: MethodSpec) -> HookFinding:
    try:
        return HookFinding(title, True, examine(spec))
    except Exception as error:
        return HookFinding(title, False, _reason(error))


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())[:400]
    return text if isinstance(error, FairbenchError) else f"{type(error).__name__}: {text}"
