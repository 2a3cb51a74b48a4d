"""Every Triton program compiles to machine code for a GPU, which needs a compiler but no GPU."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="this build of torch brings no Triton")

COMPILE = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from fairbench.kernels import programs
for name, signature, constants in eval(sys.argv[1]):
    program = getattr(programs, name)
    names, values = program.arg_names, dict(constants, D=triton.language.float32)
    constexprs = {(names.index(key),): value for key, value in values.items() if key in names}
    kinds = {key: "constexpr" if key in values else signature.get(key, "*fp32") for key in names}
    source = ASTSource(program, signature=kinds, constexprs=constexprs)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"enable_fp_fusion": False})
    print(name, constants, len(compiled.asm["cubin"]) > 1000)
"""
EXTENTS = dict.fromkeys(("numel", "blocks", "classes", "stride", "stride_teacher", "stride_student", "rows"), "i32")
FLOATS = dict.fromkeys(("eps", "step", "momentum"), "fp32")
VECTORS = {
    "y": "*i64",
    "index": "*i64",
    "width": "i32",
    "key0": "i64",
    "key1": "i64",
    "stream": "i64",
    "restart": "i32",
}
PROGRAMS = {
    "sign_program": [{"EACH_EPS": True, "EACH_STEP": True}, {"EACH_EPS": False, "EACH_STEP": False}],
    "apgd_program": [{"EACH_EPS": True, "EACH_STEP": False}],
    "l2_program": [{"EACH_EPS": False, "EACH_STEP": True}],
    "philox_program": [{"NORMAL": False}, {"NORMAL": True}],
    "class_program": [{"COUNT": False}, {"COUNT": True}],
    "kl_program": [{}],
    "kl_gradient_program": [{}],
    "margin_program": [{"RATIO": False}, {"RATIO": True}],
}


def case(name: str, constants: dict[str, bool]) -> tuple[str, dict[str, str], dict[str, int]]:
    """A program, the types of its arguments and its constants."""
    each = {key.removeprefix("EACH_").lower(): "*fp32" for key, value in constants.items() if value and "EACH" in key}
    signature = {**EXTENTS, **FLOATS, **VECTORS, **each, **({"out": "*i64"} if constants.get("COUNT") else {})}
    return name, signature, {**constants, "BLOCK": 1024}


@pytest.mark.slow
def test_every_program_compiles_for_compute_capability_9():
    cases = [case(name, constants) for name, variants in PROGRAMS.items() for constants in variants]
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    command = [sys.executable, "-W", "error", "-c", COMPILE, repr(cases)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [line.rpartition(" ")[2] for line in done.stdout.splitlines()] == ["True"] * len(cases)
