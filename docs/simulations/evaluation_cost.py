"""What an evaluation costs on one thread, how far that is from the processor's limit, and how the cost grows.

    OMP_NUM_THREADS=1 python docs/simulations/evaluation_cost.py

It takes about a minute. Untrained networks are attacked at a radius at which no image breaks, so that no image leaves
its batch early. Times are processor seconds, medians of ROUNDS evaluations after one that is not counted.
"""

from __future__ import annotations

import cProfile
import pstats
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import fairbench
from fairbench.attacks.crafting import rewritten
from fairbench.attacks.gradient import frozen, logits_and_gradient
from fairbench.attacks.losses import ce
from fairbench.models import build_model

ROUNDS = 3
EPS = 1e-4
SMALL = "small-cnn:width=16,batchnorm=true"
BASE: dict[str, Any] = {"model": SMALL, "side": 8, "images": 500, "classes": 10, "attack": "pgd-20"}
GROWTH: dict[str, list[Any]] = {
    "images": [125, 250, 500, 1000],
    "classes": [10, 100],
    "attack": [
        "fgsm",
        "pgd-10:rel_step=0.25",
        "pgd-20",
        "pgd-40",
        "apgd-ce-20",
        "square:queries=100",
        "autoattack-fast",
    ],
    "model": ["small-cnn:width=8,batchnorm=true", SMALL, "small-cnn:width=32,batchnorm=true", "resnet-micro"],
    "side": [8, 16],
}
# Ensembles have a budget of thousands of passes: theirs is cut so that the script ends in about a minute.
CUT = {"autoattack-fast": "autoattack-fast:steps=5,queries=50"}
PARTS = {"C code": ("chain.py",), "steps and random starts": ("reference.py",), "passes of the model": ("victim.py",)}


def network_and_images(model: str, side: int, images: int, classes: int) -> tuple[nn.Module, Tensor, Tensor]:
    """Return an untrained network, random grey images [N,1,side,side], and the classes that it predicts for them."""
    torch.manual_seed(0)
    network = build_model(model, num_classes=classes, shape=(1, side, side)).eval()
    x = torch.rand(images, 1, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return network, x, network(x).argmax(1)


def evaluation(
    *, model: str, side: int, images: int, classes: int, attack: str, flags: bool = False
) -> Callable[[], Any]:
    """Return a function that runs the evaluation."""
    network, x, y = network_and_images(model, side, images, classes)
    asked: dict[str, Any] = {"attacks": [CUT.get(attack, attack)], "eps": EPS, "flags": flags}
    return lambda: fairbench.evaluate(network, (x, y), **asked)


def seconds(run: Callable[[], Any], rounds: int = ROUNDS) -> float:
    """Return the median of processor seconds after one call that is not counted."""
    spent = []
    for _ in range(rounds + 1):
        start = time.process_time()
        run()
        spent.append(time.process_time() - start)
    return statistics.median(spent[1:])


def shares(run: Callable[[], Any]) -> dict[str, float]:
    """Return the share of the processor time of one call that is spent inside the functions of each of PARTS."""
    profile = cProfile.Profile(time.process_time)
    profile.runcall(run)
    table: dict[Any, Any] = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    whole = sum(entry[2] for entry in table.values())
    found = {}
    for name, files in PARTS.items():
        inside = {key for key in table if key[0].rpartition("/")[2] in files}
        # outermost calls alone, because the time of inner ones is part of theirs
        found[name] = sum(table[key][3] for key in inside if not inside & set(table[key][4])) / whole
    return found | {"all else": 1 - sum(found.values())}


def limits() -> None:
    """Print the processor's rates beside those of the C code on the base network and on one for 32 x 32 images."""
    a, b = torch.randn(2, 768, 768)
    out = torch.empty(768, 768)
    product = 768**3 / seconds(lambda: torch.mm(a, b, out=out), 9) / 1e9
    source, target = torch.randn(2, 1 << 24)
    copied = 2 * source.nbytes / seconds(lambda: target.copy_(source), 9) / 1e9
    print(f"matrix product {product:.0f} G multiplications/s, copy {copied:.1f} GB/s read and written")
    for side in (8, 32):
        network, x, y = network_and_images(SMALL, side, 250, 10)
        with frozen(network):
            copy = rewritten(network, x, "c")
            chain = copy.chain if copy is not None else None
            if copy is None or chain is None:
                print("no C compiler: the rates of the C code are left out")
                return
            spent = seconds(lambda copy=copy, x=x, y=y: logits_and_gradient(copy, x, ce, y), 9)  # type: ignore[misc]
            plain = seconds(lambda network=network, x=x, y=y: logits_and_gradient(network, x, ce, y), 9)  # type: ignore[misc]
        rate, kept = 2 * chain.products * len(x) / spent / 1e9, 4 * chain.numbers / 1e3
        print(
            f"small-cnn on {side} x {side}: {chain.products / 1e6:.2f} M multiplications and {kept:.0f} KB of values "
            f"an image; logits and gradient of 250 in {1e3 * spent:.2f} ms: {rate:.0f} G multiplications/s, "
            f"{rate / product:.0%} of the matrix product's rate; by the model itself {1e3 * plain:.2f} ms"
        )


def main() -> None:
    """Print the limits, where the time of an evaluation goes, and how its cost grows."""
    torch.set_num_threads(1)
    limits()
    base = seconds(evaluation(**BASE))
    print(f"base {BASE}: {base:.3f} s; with flags {seconds(evaluation(**BASE, flags=True)):.3f} s")
    print("; ".join(f"{name} {share:.0%}" for name, share in shares(evaluation(**BASE)).items()), flush=True)
    for axis, values in GROWTH.items():
        for value in values:
            spent = seconds(evaluation(**{**BASE, axis: value}))
            print(f"{axis:>8} {CUT.get(value, value)!s:<36} {spent:7.3f} s {spent / base:6.2f} x", flush=True)


if __name__ == "__main__":
    main()
