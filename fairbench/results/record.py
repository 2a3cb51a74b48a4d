"""Validation of `run.json`, which may come from another machine or from an untrusted source."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fairbench.errors import CorruptFile, explain_validation
from fairbench.suites.sections import TuningMark
from fairbench.suites.spec import RunSpec

__all__ = ["SCHEMA", "check_record", "seal", "unseal"]

SCHEMA = 1
SEAL = "checksum"
# A record becomes a row for each attack of each protocol: these limits bound the time of a build.
MAX_PROTOCOLS = 50
MAX_ATTACKS = 100
MAX_ROWS = 1_000
MAX_CLASSES = 100_000

Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Version = Annotated[str, Field(pattern=r"^[1-9][0-9]{0,8}(\.custom-[0-9a-f]{1,64})?$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{1,64}$")]


class _Open(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)


class _Cost(_Open):
    train_seconds: Amount
    forwards: Amount
    backwards: Amount
    flops: Amount
    peak_memory_mb: Amount


class _Evaluation(_Open):
    seconds: Amount
    source_hash: Digest | None = None


class _Flag(_Open):
    red: bool


class _Protocol(_Open):
    """A protocol of a run; its version and hash become the name of a leaderboard.

    Its key is the suite's version. An evaluation with changed settings (`--set`) has a key of its own, so that the
    suite's own board keeps a run that both share.
    """

    hash: Digest
    best: Annotated[list[str], Field(max_length=MAX_ATTACKS)]
    last: Annotated[list[str], Field(max_length=MAX_ATTACKS)]
    quick: bool
    custom: bool
    command: str = ""
    metrics: int | None = None
    budget: Digest | None = None
    tuning: TuningMark | None = None

    @model_validator(mode="after")
    def _marked_rows_have_a_budget(self) -> Self:
        if self.tuning is not None and self.budget is None:
            raise ValueError("has a mark of tuning and no budget")
        return self


class _Weights(_Open):
    best: str
    last: str


class _Provenance(_Open):
    created: str
    commit: str
    dirty: bool
    packages: dict[str, str] = Field(default_factory=dict)


class _Record(_Open):
    """The record of a run in any state."""

    version: Literal[1] = Field(alias="schema")
    status: str = ""
    files: dict[str, str]
    provenance: _Provenance | None = None
    protocols: Annotated[dict[Version, _Protocol], Field(max_length=MAX_PROTOCOLS)] = Field(default_factory=dict)


class _Complete(_Record):
    """The record of a finished run, whose rows are put on a leaderboard."""

    run_id: str
    suite: str
    method: str
    seed: int
    spec: dict[str, Any]
    class_names: Annotated[list[str], Field(min_length=1, max_length=MAX_CLASSES)]
    provenance: _Provenance
    cost: _Cost
    evaluations: dict[str, _Evaluation]
    weights: _Weights
    flags: dict[str, dict[str, _Flag]] = Field(default_factory=dict)
    protocols: Annotated[dict[Version, _Protocol], Field(max_length=MAX_PROTOCOLS)]  # which a finished run must have


def check_record(record: Any, path: Path | str) -> Mapping[str, Any]:
    """Return the record if it is that of a run; a finished run must have all values that a leaderboard needs.

    Raises CorruptFile, which names the first missing or invalid field.
    """
    kind = _Complete if isinstance(record, dict) and record.get("status") == "complete" else _Record
    try:
        kind.model_validate(record)
        if kind is _Complete:
            spec = RunSpec.model_validate(record["spec"])
            asked = [
                f"{at}/{text}" for each in record["protocols"].values() for at in ("best", "last") for text in each[at]
            ]
            if len(asked) * len(record["class_names"]) > MAX_ROWS * 1_000 or len(asked) > MAX_ROWS:
                raise CorruptFile(f"{path}: more attacks and classes than a leaderboard may have")
            missing = [key for key in asked if key not in record["evaluations"]]
            if missing:
                raise CorruptFile(f"{path}: no verdicts for {missing[0]:.80} are recorded")
            if (spec.label, spec.seed, spec.run_id) != (record["method"], record["seed"], record["run_id"]):
                raise CorruptFile(f"{path}: not a run record: its name, seed or id is not that of its spec")
    except ValidationError as error:
        raise CorruptFile(f"{path}: not a run record of schema {SCHEMA}: {explain_validation(error)}") from None
    return record  # type: ignore[no-any-return]


def seal(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record with the checksum of its other fields as the last field."""
    content = {key: value for key, value in record.items() if key != SEAL}
    return {**content, SEAL: _checksum(content)}


def unseal(record: Any, path: Path | str) -> Any:
    """Return the record without its checksum; an older record without a checksum is returned unchanged.

    Raises CorruptFile if the checksum does not match the content; if `path` is a Path, the error names it for repair.
    """
    if not isinstance(record, dict) or SEAL not in record:
        return record
    content = {key: value for key, value in record.items() if key != SEAL}
    if record[SEAL] != _checksum(content):
        raise CorruptFile(f"{path}: content does not match its own checksum", path if isinstance(path, Path) else None)
    return content


def _checksum(content: Mapping[str, Any]) -> str:
    """Return the checksum of the values in order, which does not depend on spaces and line ends."""
    return sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()
