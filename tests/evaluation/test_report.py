"""The sentences of a report."""

from __future__ import annotations

import pytest
from odd_models import EPS, conv_net, labelled

from fairbench import evaluate


@pytest.mark.parametrize(
    ("attacks", "said"),
    [
        (["clean"], "no attack ran"),
        (["clean", "fgsm"], "strongest attack that ran: fgsm (N %); AutoAttack did not run in full, and may find less"),
        (
            ["autoattack:attacks=square"],
            "strongest attack that ran: autoattack:attacks=square (N %); "
            "AutoAttack did not run in full, and may find less",
        ),
        (
            ["autoattack:version=rand"],
            "strongest attack that ran: autoattack:version=rand (N %); "
            "AutoAttack did not run in full, and may find less",
        ),
        (["clean", "autoattack-fast"], "strongest attack that ran: autoattack-fast (N %)"),
    ],
)
def test_the_report_names_the_strongest_attack_and_says_when_autoattack_did_not_run(
    attacks: list[str], said: str
) -> None:
    report = evaluate(conv_net(), labelled(4), attacks=attacks, eps=EPS, flags=False)
    share = f"{100 * report.summary(report.strongest).average:.1f} %"
    assert report.strength == said.replace("N %", share)
    assert report.strength in str(report)
