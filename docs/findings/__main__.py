"""Answer the questions that papers leave open, from the committed boards: `python docs/findings` prints the page.

`python docs/findings --write docs/findings.md` writes it. Boards that are not there make an answer "not measured".
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import measures
import pairs
import trainings
from evidence import Answer

from fairbench.files import checksum

ROOT = Path(__file__).resolve().parents[2]
HEAD = """# Findings

What the committed boards say of questions that papers leave open. `python docs/findings --write docs/findings.md`
writes this page from `leaderboards/`, `results/` and `tuning/`; nothing in it is typed by hand but the questions.

A difference is method less base, a mean over seeds, with its 95 % interval over seeds on these test images. Bold: it
is significant by the moderated t-test (docs/leaderboards.md) after Holm's correction over the tests of its table.
Where a table has a second attack, it is the union of all, or the strongest attack on all test images where the union
covers a part of them: of a class of `cifar10-micro` the union has 20 images.
*Exploratory* means that no test of that kind supports the answer. *Not measured* means that no board has what the
question needs. Robust accuracies are percent, NSD is a fraction.
"""
QUESTIONS: tuple[tuple[str, Callable[[Path], Answer]], ...] = (
    (
        "ABSLD sharpens labels of hard classes and smooths those of easy ones: does it matter that it adapts?",
        pairs.adaptive,
    ),
    ("ABSLD's temperatures: two sets, one set, or the product that the released script uses?", pairs.sets),
    ("What does each method cost?", measures.costs),
    ("Do policies on labels and policies on samples add up?", pairs.policies),
    ("Plain or corrected metrics: do ranks change?", measures.metrics),
    ("What does fairness cost in clean accuracy, class by class?", pairs.clean_cost),
    ("Which published claims hold at this scale?", pairs.published),
    ("Which rankings change under stronger attacks?", measures.attacks),
    ("Do effects carry over to other data and architectures?", pairs.elsewhere),
    ("How optimistic is selection, on test and on validation?", measures.selection),
    ("Which difficulty signal is stable, and how many temperatures sit at a bound?", trainings.signals),
    ("How sensitive is ABSLD to its constants?", pairs.sensitivity),
    ("How much fairness does a student inherit?", measures.inherited),
    ("How sensitive are methods to the recipe?", trainings.recipe),
)


def page(root: Path) -> str:
    """Return the whole page from what is committed below `root`."""
    answers = [(number, question, answer(root)) for number, (question, answer) in enumerate(QUESTIONS, 1)]
    overview = [
        f"- [{number}. {question}](#{_anchor(number, question)}) {found.status}" for number, question, found in answers
    ]
    sections = [
        "\n\n".join(
            [f"## {number}. {question}", f"*{found.status[0].upper()}{found.status[1:]}.* {found.said}", *found.tables]
        )
        for number, question, found in answers
    ]
    return "\n".join([HEAD, inputs(root), "", *overview, ""]) + "\n" + "\n\n".join(sections) + "\n"


def inputs(root: Path) -> str:
    """Return the line that names every board and table of trials below `root` with its checksum."""
    folders = ("leaderboards/*", "tuning/*", "docs/findings/transfers")
    files = sorted(path for folder in folders for path in root.glob(f"{folder}/*.csv"))
    return "Written from " + ", ".join(f"`{path.relative_to(root)}` {checksum(path)[:8]}" for path in files) + "."


def _anchor(number: int, question: str) -> str:
    kept = "".join(letter for letter in f"{number} {question}".lower() if letter.isalnum() or letter in " -")
    return kept.replace(" ", "-")


def main() -> None:
    """Print the page, or write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, default=ROOT, help="folder with leaderboards, results and tuning")
    parser.add_argument("--write", type=Path, help="file to write")
    given = parser.parse_args()
    text = page(given.root)
    if given.write is None:
        print(text, end="")
    else:
        given.write.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
