"""The files of a new method: one with a working method, and a test that passes."""

from __future__ import annotations

import keyword
import re
from pathlib import Path
from string import Template

from fairbench import registry
from fairbench.errors import InvalidInput
from fairbench.files import refuse_links, write_text
from fairbench.suites.suite import Suite

__all__ = ["new_method"]

METHOD = Template('''\
"""$title: what the method does, in one sentence."""

from __future__ import annotations

import torch
from torch import Tensor

from fairbench import ClassPolicy, ClassRecord, hyper, register_method, register_policy


def class_weights(risk: Tensor, sharpness: float) -> Tensor:
    """Weights that grow with a class's risk, and whose mean is 1; risk float [C]."""
    return len(risk) * torch.softmax(sharpness * risk, dim=0)


# A method is an objective, here trades, and policies that steer it class by class. A policy can also be combined with
# any objective that reads the vectors it supplies, as in
# fairbench run digits --methods sat+${name}_weights
@register_policy("${name}_weights", summary="Weights that grow with a class's robust risk")
class $policy(ClassPolicy):
    """Give the classes on which the network is least robust more weight, once per epoch."""

    # Vectors over classes; fairbench.method.policy.VECTORS lists those that objectives read. Each becomes a tensor
    # attribute of ones, float32 [C], which is saved with the run and restored when it resumes.
    supplies = ("weight",)

    # A type, a default, its source, the values that tuning tries, and limits. On the command line:
    # --set $name.sharpness=2
    sharpness: float = hyper(1.0, source="chosen here", search=[0.5, 1.0, 2.0], ge=0)

    def end_epoch(self, record: ClassRecord) -> None:
        """Weigh the classes by their mean cross-entropy on adversarial images in this epoch."""
        self.weight = class_weights(record.mean("ce_adv"), self.sharpness)


# The arguments of registrations are literals, because listings read this file without running it.
register_method(
    "$name",
    base="trades",
    policies=["${name}_weights"],
    summary="TRADES with weights that grow with a class's robust risk",
    citation="",
    provenance="own",
)
''')

TEST = Template("""\
from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch

from fairbench import registry
from fairbench.authoring import check_method

FILE = Path(__file__).resolve().parents[2] / "methods" / "$name.py"


@pytest.fixture(autouse=True)
def _plugin():
    registry.add_plugin(FILE)


def test_it_keeps_the_contract():
    assert [str(finding) for finding in check_method("$name") if not finding.passed] == []


def test_class_weights_by_hand():
    # exp(0) : exp(ln 3) is 1 : 3, and two weights of mean 1 sum to 2.
    rule = sys.modules[registry.policies.get("${name}_weights").__module__].class_weights
    risk = torch.tensor([0.0, math.log(3)])
    torch.testing.assert_close(rule(risk, 1.0), torch.tensor([0.5, 1.5]))
    torch.testing.assert_close(rule(risk, 0.0), torch.ones(2))
""")


def new_method(name: str, folder: Path) -> list[Path]:
    """Write `methods/NAME.py` and `tests/methods/test_NAME.py` below `folder`, and return their paths.

    The method works without an edit. Raises InvalidInput for a name that is invalid or taken, and for a file that
    exists; nothing is written then.
    """
    _check_name(name)
    if not folder.is_dir():
        raise InvalidInput(f"new method {name!r}: {folder} is not a folder")
    values = {"name": name, "title": name.replace("_", " "), "policy": _class_name(name)}
    texts = {
        folder / "methods" / f"{name}.py": METHOD.substitute(values),
        folder / "tests" / "methods" / f"test_{name}.py": TEST.substitute(values),
    }
    for path in texts:
        refuse_links(path.parent, levels=len(path.relative_to(folder).parts) - 1)
        if path.exists() or path.is_symlink():
            raise InvalidInput(f"new method {name!r}: {path} exists already; it is not overwritten")
    written: list[Path] = []
    try:
        for path, text in texts.items():
            write_text(path, text)
            written.append(path)
    except BaseException:
        for path in written:
            path.unlink()
        raise
    return written


def _check_name(name: str) -> None:
    wrong = f"new method {name!r}: "
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,29}", name):
        raise InvalidInput(f"{wrong}a name is a letter, then up to 29 letters, digits and underscores")
    if keyword.iskeyword(name) or keyword.issoftkeyword(name):
        raise InvalidInput(f"{wrong}a word of the Python language cannot be a name")
    if name in Suite.model_fields:
        raise InvalidInput(f"{wrong}--set would read it as a section of the suite")
    if name in registry.RESERVED:
        raise InvalidInput(f"{wrong}options and boards use this name for something else")
    for table, new in ((registry.methods, name), (registry.policies, f"{name}_weights")):
        known = table.scan()
        if new in known:
            raise InvalidInput(f"{wrong}{table.kind} {new!r} is registered by {known[new].path}")


def _class_name(name: str) -> str:
    return "".join(part[:1].upper() + part[1:] for part in name.split("_")) + "Weights"
