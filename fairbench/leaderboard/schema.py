"""The schema of a leaderboard: what each column holds, how a file is checked, and how an older one is read."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from fairbench.errors import CorruptFile, UnknownName

__all__ = [
    "COLUMNS",
    "COSTS",
    "ENDS",
    "FIGURES",
    "OPTIONAL",
    "SCHEMA",
    "Column",
    "Rules",
    "check",
    "column",
    "explain",
    "migrate",
]

SCHEMA = 3
SLACK = 1.01e-4  # what rounding to four decimals may leave between a figure and its classes
ENDS = ("average_lo", "average_hi", "worst_lo", "worst_hi")
MAX_INTEGER = 2**63 - 1
Cell = str | int | float | bool | None
Rows = list[list[str]]


@dataclass(frozen=True)
class Column:
    """One column: its type, its unit, the range or the words that its cells may hold, and what they mean.

    A cell of a run's row is empty only where `empty` says what that stands for; aggregated rows leave out what their
    seeds do not share. `since` is the schema that brought the column; an `optional` one is on some boards only.
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
        """Return the cell's value, None for an empty one; raises ValueError, which says what was expected."""
        if text == "":
            return None
        if self.words and text not in self.words:
            raise ValueError(f"one of {', '.join(self.words)}")
        if self.type == "text":
            return text
        if self.type == "boolean":
            return text == "True"
        if not text.isascii() or "_" in text:  # Python reads digits of every script, and 1_000
            raise ValueError(self.expected)
        try:
            value = int(text) if self.type == "integer" else float(text)
        except ValueError:
            raise ValueError(self.expected) from None
        if isinstance(value, int) and abs(value) > MAX_INTEGER:  # neither a float nor an array can hold it
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
_TABLE = (
    _count("schema", "version of this table of columns", low=1),
    _text("suite", "the suite that the run belongs to; a --quick run's ends in -quick"),
    _text("protocol", "hash of all that evaluation depends on; one file holds one protocol"),
    _text("method", "the method, base+policy+... for a composition; teacher, natural-teacher, warm-start for a role"),
    _text("base", "the objective that the method is built on"),
    _text("policies", "class-wise rules that steer it, joined by +", empty="none"),
    _text("provenance", "what it reproduces: code, paper, reconstruction, ablation, composition", empty="not stated"),
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
    _text("worst_class", "name of the worst class, the first in a tie"),
    _share("worst_crossfit", "worst class chosen on one half, scored on the other, both ways; biased high", NO_RATIO),
    _share("worst10", "mean of the worst tenth of the classes, at least one class"),
    _amount("nsd", "population standard deviation over classes of their accuracy, over its mean", "ratio", NO_RATIO),
    _amount("nsd_corrected", "nsd with the variance that sampling alone adds taken out", "ratio", NO_RATIO),
    _share("gap", "highest minus lowest class accuracy"),
    _share("gini", "Gini coefficient of the class accuracies, 0 when equal", NO_RATIO),
    _text("flags", "red sanity checks of the checkpoint, joined by ;, or none", empty="not checked"),
    _yes_no("quick", "whether this is a smoke test, never ranked"),
    _text("classes", "where class_0 ..., n_class_0 ... stand; above 20 classes they are in v<N>.classes.csv"),
    _amount("train_seconds", "time of the training with its selection and its warm start, without its teacher", "s"),
    _amount("eval_seconds", "wall-clock time of the attack; of all of them in the row of the union", "s"),
    _amount("images_per_second", "images forwarded a second of training", "images/s", NO_RATIO),
    _amount("forwards", "images that went forward through the network in training", "images"),
    _amount("backwards", "images that went backward through the network in training", "images"),
    _amount("flops", "floating-point operations of the training, by the layers' shapes", "operations"),
    _amount("peak_memory_mb", "most memory held: the device's, or the process's on a CPU", "MiB"),
    _text("device", "the kind of device that trained", "cpu", "cuda"),
    _text("precision", "the precision of the training; verdicts are always float32", "float32", "bf16", "float64"),
    _count("threads", "threads of a worker", low=1),
    _text("recipe_hash", "hash of the training budget; rows that are ranked together share it"),
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
    Column("budget_hash", "text", "hash of the budget; rows ranked together share it", empty=UNMARKED, optional=True),
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
_KNOWN = {each.name: each for each in (*_TABLE, *_OPTIONAL, _CLASS, _CLASS_N)}

COLUMNS = tuple(each.name for each in _TABLE)
OPTIONAL = tuple(each.name for each in _OPTIONAL)
FIGURES = tuple(name for name in COLUMNS[COLUMNS.index("average") : COLUMNS.index("flags")] if name != "worst_class")
COSTS = COLUMNS[COLUMNS.index("train_seconds") : COLUMNS.index("device")]
_ALWAYS = ("schema", "suite", "protocol", "method", "seed", "seeds", "checkpoint", "attack")
_KEY = ("method", "seed", "checkpoint", "attack", "run_id")
_ORDERED = (("average_lo", "average"), ("average", "average_hi"), ("worst_lo", "worst"), ("worst", "worst_hi"))


def column(name: str) -> Column:
    """Return a column's declaration; `class_7` and `n_class_7` share those of class 0. Raises UnknownName."""
    found = _KNOWN.get(re.sub(r"^(n_)?class_[0-9]{1,9}$", lambda match: f"{match[1] or ''}class_0", name))
    if found is None:
        raise UnknownName("column", name, _KNOWN)
    return found


def explain(name: str) -> dict[str, str]:
    """Return what is declared of a column as words, without what does not apply; raises UnknownName."""
    found = column(name)
    facts = {"column": name, "meaning": found.meaning, "type": found.expected, "unit": found.unit}
    facts |= {"empty": found.empty, "since": f"schema {found.since}"}
    return {key: value for key, value in facts.items() if value}


def migrate(where: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[list[str], Rows]:
    """Return header and rows as the current schema has them; raises CorruptFile for a newer schema or several."""
    if "schema" not in header:
        raise CorruptFile(f"{where}: row 1: column 'schema' is missing")
    index = header.index("schema")
    texts = [row[index] if index < len(row) else "" for row in rows]
    version = int(texts[0]) if texts and re.fullmatch(r"[0-9]{1,9}", texts[0]) else 0
    if version > SCHEMA:
        raise CorruptFile(
            f"{where}: row 2, column 'schema': {version}, but this fairbench reads at most {SCHEMA}: upgrade it"
        )
    for number, text in enumerate(texts, start=2):
        if not version or text != texts[0]:
            expected = texts[0] if version else f"1 to {SCHEMA}"
            raise CorruptFile(f"{where}: row {number}, column 'schema': {text!r:.80}, expected {expected}")
    names, cells = list(header), [list(row) for row in rows]
    _check_shape(where, names, cells, version)
    for step in range(version, SCHEMA):
        names, cells = _STEPS[step](names, cells)
    return names, cells


def check(where: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[list[Cell]]:
    """Yield the rows as values; raises CorruptFile with the row, the header being row 1, and the column."""
    return map(Rules(where, header).values, rows)


class Rules:
    """What the rows of a file must be, by themselves and next to those before them."""

    def __init__(self, where: str, header: Sequence[str]) -> None:
        self._where, self._header = where, header
        self._at = {name: index for index, name in enumerate(header)}
        self._columns = [
            (declared := column(name), name, name in _ALWAYS, name in _ALWAYS or not declared.empty) for name in header
        ]
        self._classes = [(at, self._at.get(f"n_{name}")) for name, at in self._at.items() if _is_class(name)]
        self._last: list[str] = [""] * len(header)
        self._parsed: list[Cell] = [None] * len(header)
        self._seen: dict[tuple[str, ...], int] = {}
        self._protocol: str | None = None
        self._number = 1

    def values(self, row: Sequence[str]) -> list[Cell]:
        """Return the next row as values; raises CorruptFile with the row and the column."""
        self._number += 1
        where, at, last, values = f"{self._where}: row {self._number}", self._at, self._last, self._parsed
        aggregate = "seed" in at and row[at["seed"]] in ("mean", "std")
        for index, text in enumerate(row):
            if text and text == last[index]:
                continue  # rows that follow one another have most of their cells in common
            declared, name, always, of_a_run = self._columns[index]
            try:
                values[index] = declared.parse(text)
            except ValueError as error:
                raise CorruptFile(f"{where}, column {name!r}: {text!r:.80} is not {error}") from None
            if text == "" and (always if aggregate else of_a_run):
                raise CorruptFile(f"{where}, column {name!r}: empty")
            last[index] = text
        _check_row(where, self._header, row, values, at)
        if not aggregate:
            self._check_classes(where, row, values)
        key = tuple(row[at[name]] for name in _KEY)
        if self._seen.setdefault(key, self._number) != self._number:
            raise CorruptFile(f"{where}, column 'attack': the same run and attack as row {self._seen[key]}")
        protocol = row[at["protocol"]]
        if self._protocol is None:
            self._protocol = protocol
        if protocol != self._protocol:
            raise CorruptFile(
                f"{where}, column 'protocol': {protocol!r} differs from row 2's: "
                "rows of two protocols are not comparable and never share a file"
            )
        return list(values)

    def _check_classes(self, where: str, row: Sequence[str], values: Sequence[Cell]) -> None:
        """The worst is the least class, the average the mean of the classes by their images, to the last digit."""
        shares = [(values[at], values[n]) for at, n in self._classes if n is not None]
        known = [(share, n) for share, n in shares if isinstance(share, float) and isinstance(n, int) and n > 0]
        if not known or "worst" not in self._at:
            return
        total = sum(n for _, n in known)
        expected = {"worst": min(share for share, _ in known)}
        expected["average"] = sum(share * n for share, n in known) / total
        if isinstance(n := values[self._at["n"]], int) and n != total:
            raise CorruptFile(f"{where}, column 'n': {n}, but its classes have {total} images")
        for name, value in expected.items():
            cell = values[self._at[name]]
            if isinstance(cell, float) and abs(cell - value) > SLACK:
                raise CorruptFile(f"{where}, column {name!r}: {row[self._at[name]]}, but its classes give {value:.4f}")


def _check_row(
    where: str, header: Sequence[str], row: Sequence[str], values: Sequence[Cell], at: dict[str, int]
) -> None:
    seed = row[at["seed"]]
    if not re.fullmatch(r"-?[0-9]{1,20}|mean|std", seed):
        raise CorruptFile(f"{where}, column 'seed': {seed!r:.80} is not a whole number, mean or std")
    over_seeds = seed in ("mean", "std") and "schema" in at and row[at["schema"]] == str(SCHEMA)
    if over_seeds:
        ended = [name for name in ENDS if name in at and values[at[name]] is not None]
        if ended:
            raise CorruptFile(
                f"{where}, column {ended[0]!r}: {row[at[ended[0]]]}, but a row over seeds has no interval"
            )
    if seed == "std":
        return
    for low, high in _ORDERED if "average" in at else ():
        lower, upper = values[at[low]], values[at[high]]
        if isinstance(lower, float) and isinstance(upper, float) and lower > upper:
            raise CorruptFile(f"{where}, column {low!r}: {row[at[low]]} is above {high!r}, {row[at[high]]}")
    if seed == "mean" and "average" in at and values[at["average"]] is None:
        raise CorruptFile(f"{where}, column 'average': empty")


def _check_shape(where: str, header: Sequence[str], rows: Sequence[Sequence[str]], version: int) -> None:
    absent = [each.name for each in _TABLE if each.since <= version and each.name not in (*header, "classes")]
    if absent or len(set(header)) < len(header):
        problem = f"column {absent[0]!r} is missing" if absent else "a column occurs twice"
        raise CorruptFile(f"{where}: row 1: {problem}")
    strange = [name for name in header if not _is_declared(name)]
    if strange:
        raise CorruptFile(f"{where}: row 1: column {strange[0]!r:.80} is not one of schema {version}")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise CorruptFile(f"{where}: row {number}: {len(row)} cells, expected {len(header)}")


def _is_class(name: str) -> bool:
    return re.fullmatch(r"class_\d+", name) is not None


def _is_declared(name: str) -> bool:
    return name in _KNOWN or re.fullmatch(r"(n_)?class_[0-9]{1,9}", name) is not None


def _add_origin(header: list[str], rows: Rows) -> tuple[list[str], Rows]:
    """Schema 1 to 2: a row says which packages, split and settings it comes from; older files did not."""
    added = [each.name for each in _TABLE if each.since == 2]
    index = header.index("schema")
    return [*header, *added], [[*row[:index], "2", *row[index + 1 :], *[""] * len(added)] for row in rows]


def _drop_ends(header: list[str], rows: Rows) -> tuple[list[str], Rows]:
    """Schema 2 to 3: rows over seeds have no interval ends; older ones held means and deviations of ends."""
    index, seed = header.index("schema"), header.index("seed")
    ends = {header.index(name) for name in ENDS if name in header}
    for row in rows:
        row[index] = "3"
        if row[seed] in ("mean", "std"):
            for end in ends:
                row[end] = ""
    return header, rows


_STEPS: dict[int, Callable[[list[str], Rows], tuple[list[str], Rows]]] = {1: _add_origin, 2: _drop_ends}
