from __future__ import annotations

import re

import pytest

from fairbench.authoring import authors
from fairbench.authoring.authors import authors_of
from fairbench.authoring.citation import Citation, parse_citation
from fairbench.registry import methods

ABSLD = "Zhao et al., Improving Adversarial Robust Fairness via Anti-Bias Soft Label Distillation, NeurIPS 2024, "


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"{ABSLD}arXiv 2312.05508", ("Zhao et al.", "Improving Adv", "NeurIPS", "2024", "2312.05508")),
        (
            f"Ablation of {ABSLD}arXiv 2312.05508, Fig. 2; ours",
            ("Zhao et al.", "Improving", "NeurIPS", "2024", "2312.05508"),
        ),
        (
            "Goldblum et al., Distillation, arXiv 1905.09747",
            ("Goldblum et al.", "Distillation", "", "2019", "1905.09747"),
        ),
        ("Li and Liu, WAT: Improve, AAAI 2023", ("Li and Liu", "WAT: Improve", "AAAI", "2023", "")),
        ("Doe et al., A, Part 2, arXiv 1905.09747, Fig. 2", ("Doe et al.", "A, Part 2", "", "2019", "1905.09747")),
        ("Hard Mining, IEEE TIFS, arXiv 2308.01823", ("", "Hard Mining", "IEEE TIFS", "2023", "2308.01823")),
    ],
)
def test_a_line_is_read_into_its_parts(text, found):
    citation = parse_citation(text)
    authors, title, *rest = found
    assert (citation.authors, citation.venue, citation.year, citation.arxiv) == (authors, *rest)
    assert citation.title.startswith(title)


@pytest.mark.parametrize("text", ["", "The clean baseline of two repositories", "one, two, three", ", 2024"])
def test_a_text_that_names_no_paper_gives_none(text):
    assert parse_citation(text) is None


def test_the_entry_of_a_conference_paper():
    assert parse_citation(f"{ABSLD}arXiv 2312.05508").bibtex.splitlines() == [
        "@inproceedings{zhao2024improving,",
        "  title = {{Improving Adversarial Robust Fairness via Anti-Bias Soft Label Distillation}},",
        "  author = {Shiji Zhao and Ranjie Duan and Xizhe Wang and Xingxing Wei},",
        "  booktitle = {NeurIPS},",
        "  year = {2024},",
        "  eprint = {2312.05508},",
        "  archivePrefix = {arXiv},",
        "}",
    ]


def test_a_name_cannot_end_a_field():
    entry = Citation("A_B et al.", r"100 % of {braces} & \input{x}", "", "2024", "2401.00001").bibtex
    assert r"title = {{100 \% of \{braces\} \& input\{x\}}}" in entry
    assert entry.startswith("@misc{a_b2024")


def test_every_registered_paper_is_read_and_all_with_a_number_have_an_address():
    texts = {str(entry.details.get("citation") or "") for entry in methods.scan().values()}
    unread = sorted(text for text in texts if parse_citation(text) is None)
    assert unread == ["The clean baseline of yaodongyu/TRADES and boyellow/adaad"]
    for text in texts - set(unread):
        found = parse_citation(text)
        assert re.fullmatch(r"[a-z]*20\d\d[a-z]+", found.key), text
        assert found.url.endswith(found.arxiv)
        assert bool(found.url) == ("arXiv" in text)


def test_an_entry_names_all_authors_but_of_papers_whose_list_was_not_seen():
    cited = (str(entry.details.get("citation") or "") for entry in methods.scan().values())
    papers = {found.title: found for text in cited if (found := parse_citation(text))}
    entries = {title: re.search(r"author = {(.*)},", paper.bibtex) for title, paper in papers.items()}
    assert {title for title, found in entries.items() if found is None} == {
        "Hard Adversarial Example Mining for Improving Robust Fairness"
    }
    assert {title for title, found in entries.items() if found and "others" in found[1]} == {
        "Reliable Adversarial Distillation with Unreliable Teachers",
        "Towards Deep Learning Models Resistant to Adversarial Attacks",
    }
    for title, paper in papers.items():
        listed = authors_of(title).split(" and ")
        if listed != [""] and paper.authors:
            assert listed[0].split()[-1] == paper.authors.split()[0], title


def test_every_list_of_authors_belongs_to_a_paper_that_a_method_cites():
    cited = (parse_citation(str(entry.details.get("citation") or "")) for entry in methods.scan().values())
    assert set(authors._AUTHORS) <= {paper.title.lower() for paper in cited if paper}
