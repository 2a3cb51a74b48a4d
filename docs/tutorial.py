"""A method of your own, from its file to a verdict on it, on digits: `python docs/tutorial.py FOLDER`.

Three epochs of training show how the parts fit together; they say nothing about which method is better.
"""

from __future__ import annotations

import sys
from pathlib import Path

import fairbench
from fairbench import gate, plot, registry
from fairbench.report.html import site
from fairbench.report.text import gate as gate_view
from fairbench.report.text import table
from fairbench.run import benchmark

METHOD = """
import torch

from fairbench import ClassPolicy, hyper, register_method, register_policy


@register_policy("worst_first_weights", summary="Loss weights that grow with the class's adversarial error")
class WorstFirst(ClassPolicy):
    supplies = ("weight",)
    sharpness: float = hyper(2.0, source="this tutorial", ge=0)

    def setup(self, context):
        super().setup(context)
        self.weight = torch.ones(context.num_classes, device=context.device)

    def end_epoch(self, record):
        error = 1 - record.mean("correct_adv")
        self.weight = len(error) * torch.softmax(self.sharpness * error, dim=0)

    def vectors(self):
        return {"weight": self.weight}


register_method(
    "worst_first",
    base="trades",
    policies=["worst_first_weights"],
    summary="TRADES with weights for the worst classes",
)
"""


def main(folder: Path) -> None:
    """Walk from a method's file to its leaderboard row, the class it betrays, the gate, figures and pages."""
    folder.mkdir(parents=True, exist_ok=True)

    print("1. A method is one file; nothing else is edited.")
    plugin = folder / "worst_first.py"
    plugin.write_text(METHOD, encoding="utf-8")
    registry.add_plugin(plugin)

    print("2. Run the suite: train, select, evaluate; a second call runs nothing again.")
    path = benchmark.run(
        "digits", methods=["trades", "worst_first"], quick=True, jobs=1, root=folder, plugins=[str(plugin)]
    )

    print("3. Read the leaderboard.")
    board = fairbench.load_leaderboard(path)
    rows = board[(board["seed"] == "0") & (board["checkpoint"] == "best") & (board["attack"] == "union")]
    print(rows[["method", "average", "worst", "worst_class", "nsd"]].to_string(index=False))

    print("4. Ask of a checkpoint which class it betrays.")
    runs = {row.method: folder / "results" / row.suite / row.method / row.run_id for row in rows.itertuples()}
    report = fairbench.evaluate(
        runs["worst_first"] / "best.safetensors", "digits", attacks=["clean", "fgsm", "pgd-20"], eps=0.2
    )
    print(table.headline(report))

    print("5. Let the gate judge it against TRADES: would a CI run pass?")
    outcome = gate.check_model(runs["worst_first"] / "best.safetensors", "digits", baseline=runs["trades"], max_drop=5)
    print(gate_view.table(outcome))

    print("6. Figures for a paper, and pages for everyone.")
    plot.worst_against_average(board).savefig(folder / "front.svg")
    for page in site.build([path], folder / "site"):
        print(page)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("fairbench-out") / "tutorial")
