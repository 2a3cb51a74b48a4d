"""Tests of what is compiled on first use."""

from __future__ import annotations

import pytest

from fairbench.copies.native import compiler

needs_compiler = pytest.mark.skipif(compiler() is None, reason="without a C compiler there is no C code")
