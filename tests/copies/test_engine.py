from __future__ import annotations

import pytest
import torch

from fairbench.copies import chain, default_engine, engine, name_of, require
from fairbench.errors import InvalidInput, Missing


def test_the_device_and_the_compiler_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "can_compile", lambda: True)
    assert (default_engine("cpu"), default_engine(torch.device("cuda:1"))) == ("c", "torch")
    assert [require(name) for name in ("plain", "torch", "c")] == ["plain", "torch", "c"]
    monkeypatch.setattr(engine, "can_compile", lambda: False)
    assert default_engine("cpu") == "torch"
    with pytest.raises(Missing, match="no working C compiler"):
        require("c")
    with pytest.raises(InvalidInput, match="'fast'"):
        require("fast")


def test_without_a_library_nothing_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain, "library", lambda source: None)
    assert not chain.can_compile()


def test_a_model_itself_is_plain() -> None:
    assert name_of(torch.nn.Flatten()) == "plain"
