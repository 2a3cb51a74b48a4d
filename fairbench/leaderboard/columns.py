"""The columns of a leaderboard: the type, unit, range and meaning of each."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from fairbench.errors import UnknownName

__all__ = [
    "AGGREGATES",
    "COLUMNS",
    "COSTS",
    "ENDS",
    "EVERY",
    "FIGURES",
    "OPTIONAL",
    "ROLES",
    "SCHEMA",
    "TABLE",
    "Cell",
    "Column",
    "column",
    "explain_column",
    "is_class",
    "is_declared",
]

SCHEMA = 3
ENDS = ("average_lo", "average_hi", "worst_lo", "worst_hi")
AGGREGATES = ("mean", "std")  # in the column `seed`: the rows over seeds
CLASSES_INLINE = 20  # of more classes the accuracies are in a file beside the leaderboard
ROLES = ("teacher", "natural-teacher", "warm-start")  # in the column `method`: the models that students need
MAX_INTEGER = 2**63 - 1
Cell = str | int | float | bool | None


@dataclass(frozen=True)
class Column:
    """One column: its type, unit and meaning, and the range or the words of its cells.

    In the row of a run a cell is empty only if `empty` says what that means; aggregated rows omit values that differ
    between seeds. `since` is the schema that introduced the column; an `optional` column is on some leaderboards only.
    """

    name: str
    type: Literal["text", "integer", "number", "boolean"]
    meaning: str
    unit: str = ""
    low: float = -math.inf
    high: float = math.inf
    words: tuple[str, ...] = ()
    empty: str = ""
    since: int = 1
    optional: bool = False

    def parse(self, text: str) -> Cell:
        """Return the value of a cell, None for an empty one; raises ValueError with the expected type and range."""
        if text == "":
            return None
        if self.words and text not in self.words:
            raise ValueError(f"one of {', '.join(self.words)}")
        if self.type == "text":
            return text
        if self.type == "boolean":
            return text == "True"
        if not text.isascii() or "_" in text:  # Python accepts the digits of every script, and 1_000
            raise ValueError(self.expected)
        try:
            value = int(text) if self.type == "integer" else float(text)
        except ValueError:
            raise ValueError(self.expected) from None
        if isinstance(value, int) and abs(value) > MAX_INTEGER:  # too large for a float and for an array
            raise ValueError(f"a whole number of at most {MAX_INTEGER}")
        if not (math.isfinite(value) and self.low <= value <= self.high):
            raise ValueError(self.expected)
        return value

    @property
    def expected(self) -> str:
        """The type and the range in words."""
        if (self.low, self.high) == (0, 1) and self.type == "number":
            return "a fraction in [0,1]"
        if self.words:
            return ", ".join(self.words)
        kind = {"integer": "a whole number", "number": "a number", "boolean": "True or False", "text": "text"}[
            self.type
        ]
        return kind if math.isinf(self.low) else f"{kind} of at least {self.low:g}"


def _text(name: str, meaning: str, *words: str, empty: str = "", since: int = 1) -> Column:
    return Column(name, "text", meaning, words=words, empty=empty, since=since)


def _share(name: str, meaning: str, empty: str = "") -> Column:
    return Column(name, "number", meaning, "fraction of images", 0, 1, empty=empty)


def _amount(name: str, meaning: str, unit: str, empty: str = "") -> Column:
    return Column(name, "number", meaning, unit, 0, empty=empty)


def _count(name: str, meaning: str, unit: str = "", low: float = 0, empty: str = "") -> Column:
    return Column(name, "integer", meaning, unit, low, empty=empty)


def _yes_no(name: str, meaning: str) -> Column:
    return Column(name, "boolean", meaning, words=("True", "False"))


NO_RATIO = "0/0"
TABLE = (
    _count("schema", "version of this table of columns", low=1),
    _text("suite", "the suite that the run belongs to; a --quick run's ends in -quick"),
    _text("protocol", "hash of all that evaluation depends on; one file holds one protocol"),
    _text("method", "the method, base+policy+... for a composition; teacher, natural-teacher, warm-start for a role"),
    _text("base", "the objective that the method is built on"),
    _text("policies", "class-wise rules that steer it, joined by +", empty="none"),
    _text("provenance", "code, paper, reconstruction, ablation, composition or own: its source", empty="not stated"),
    _text("dataset", "the dataset, without the folders of its files"),
    _text("architecture", "the network and its arguments"),
    _text("teacher", "run id or checkpoint of the robust teacher", empty="the method has none"),
    _text("seed", "seed of the run; mean and std in the rows over seeds (std: the sample standard deviation)"),
    _count("seeds", "number of runs that the row is made of", low=1),
    _text("checkpoint", "best: the epoch that selection chose; last: the final one", "best", "last"),
    _text("selection", "the split that chose the checkpoint; test is an oracle", "validation", "test", "last"),
    _text("attack", "the attack with its arguments; union: an image counts if it survives them all"),
    _count("n", "test images attacked", "images", low=1),
    _share("average", "share of all images that keep their class"),
    _share("average_lo", "lower end of its 95 % interval for new images, the model held fixed (Clopper-Pearson)"),
    _share("average_hi", "upper end of its 95 % interval for new images, the model held fixed (Clopper-Pearson)"),
    _share("worst", "accuracy of the worst class; biased low, the more so the more equal the classes"),
    _share(
        "worst_lo",
        "lower end of its 95 % interval for new images, the model held fixed: min over classes of bounds "
        "at 1 - 0.05, in a schema-2 file at 1 - 0.05/C",
    ),
    _share(
        "worst_hi",
        "upper end of its 95 % interval for new images, the model held fixed: min over classes of bounds at 1 - 0.05/C",
    ),
    _text(
        "worst_class",
        "name of the worst class, the first in a tie; `+2` behind it in a table counts two further classes",
    ),
    _share("worst_crossfit", "worst class chosen on one half, scored on the other, both ways; biased high", NO_RATIO),
    _share("worst10", "mean of the worst tenth of the classes, at least one class"),
    _amount("nsd", "population standard deviation over classes of their accuracy, over its mean", "ratio", NO_RATIO),
    _amount("nsd_corrected", "nsd with the variance that sampling alone adds taken out", "ratio", NO_RATIO),
    _share("gap", "highest minus lowest class accuracy"),
    _share("gini", "Gini coefficient of the class accuracies, 0 when equal", NO_RATIO),
    _text("flags", "red sanity checks of the checkpoint, joined by ;, or none", empty="not checked"),
    _yes_no("quick", "whether this is a smoke test, never ranked"),
    _text("classes", "where class_0 ..., n_class_0 ... stand; above 20 classes they are in v<N>.classes.csv"),
    _amount("train_seconds", "time of the training epochs with the warm start, without selection and teacher", "s"),
    _amount("eval_seconds", "wall-clock time of the attack; of all of them in the row of the union", "s"),
    _amount("images_per_second", "images forwarded a second of training", "images/s", NO_RATIO),
    _amount("forwards", "images that went forward through the network in training and its warm start", "images"),
    _amount("backwards", "images that went backward through the network in training and its warm start", "images"),
    _amount("flops", "floating-point operations of training and warm start, by the layers' shapes", "operations"),
    _amount("peak_memory_mb", "most memory held: the device's, or the process's on a CPU", "MiB"),
    _text("device", "the kind of device that trained", "cpu", "cuda"),
    _text("precision", "the precision of the training; verdicts are always float32", "float32", "bf16", "float64"),
    _count("threads", "threads of a worker", low=1),
    _text("recipe_hash", "hash of the recipe and the network; without a budget_hash, ranked rows share it"),
    _text("data_hash", "hash of the dataset's content"),
    _text("weights_hash", "hash of the checkpoint's weights"),
    _text("commit", "git commit of the code that ran, or unknown", empty="not run from a checkout"),
    _yes_no("dirty", "whether that code had uncommitted changes"),
    _text("command", "the command that made the run; `fairbench show` narrows it to the row", empty="made from Python"),
    _text("created", "when the training ended, UTC"),
    _text("run_id", "hash of what determines the result, and name of the run's folder"),
    Column("packages", "text", "versions of Python, packages and CUDA", empty="a schema-1 file did not say", since=2),
    Column("split_hash", "text", "hash of the data and how it is split", empty="a schema-1 file did not say", since=2),
    Column("config_hash", "text", "hash of all settings but the seed", empty="a schema-1 file did not say", since=2),
)
UNMARKED = "a run of a suite that says nothing of tuning"
_OPTIONAL = (
    Column(
        "budget_hash",
        "text",
        "hash of data, network, epochs and number of trials; rows ranked together share it",
        empty=UNMARKED,
        optional=True,
    ),
    Column(
        "tuning",
        "text",
        "whether the settings were tuned, are those of the tuned method that it takes apart, or the suite's recipe",
        words=("tuned", "inherited", "untuned"),
        empty=UNMARKED,
        optional=True,
    ),
    Column(
        "train_robust",
        "number",
        "share of training images that withstood the training attack in the last epoch; low: under-trained",
        "fraction of images",
        0,
        1,
        empty="not recorded",
        optional=True,
    ),
)
_CLASS = _share("class_0", "accuracy of class number 0, and so on for every class", "the class has no images")
_CLASS_N = _count("n_class_0", "test images of class number 0, and so on for every class", "images")
_KNOWN = {each.name: each for each in (*TABLE, *_OPTIONAL, _CLASS, _CLASS_N)}

COLUMNS = tuple(each.name for each in TABLE)
OPTIONAL = tuple(each.name for each in _OPTIONAL)
EVERY = tuple(_KNOWN)  # also those of some leaderboards only; class_0 and n_class_0 stand for all classes
FIGURES = tuple(name for name in COLUMNS[COLUMNS.index("average") : COLUMNS.index("flags")] if name != "worst_class")
COSTS = COLUMNS[COLUMNS.index("train_seconds") : COLUMNS.index("device")]


def column(name: str) -> Column:
    """Return a column's declaration; `class_7` and `n_class_7` share those of class 0. Raises UnknownName."""
    found = _KNOWN.get(re.sub(r"^(n_)?class_[0-9]{1,9}$", lambda match: f"{match[1] or ''}class_0", name))
    if found is None:
        raise UnknownName("column", name, _KNOWN)
    return found


def explain_column(name: str) -> dict[str, str]:
    """Return the declaration of a column in words, without the parts that do not apply; raises UnknownName."""
    found = column(name)
    facts = {"column": name, "meaning": found.meaning, "type": found.expected, "unit": found.unit}
    facts |= {"empty": found.empty, "since": f"schema {found.since}"}
    return {key: value for key, value in facts.items() if value}


def is_declared(name: str) -> bool:
    """Whether the schema has a column of this name."""
    return name in _KNOWN or is_class(name)


def is_class(name: str) -> bool:
    """Whether a column of this name has the accuracies or the numbers of images of a class."""
    return re.fullmatch(r"(n_)?class_[0-9]{1,9}", name) is not None
