from __future__ import annotations

import string
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fairbench.results.address import public, redacted

PLAIN = string.ascii_letters + string.digits
secrets = st.text(PLAIN + "/+=!$%&*-_.~ ?#", min_size=4, max_size=40).map(lambda text: "Zq7" + text + "9xW")
names = st.text(PLAIN + "-", min_size=1, max_size=12)
paths = st.lists(st.text(PLAIN + "@._-", min_size=1, max_size=8), max_size=3).map("/".join)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("s3://bucket/dir", "s3://bucket/dir"),
        ("s3://bucket/dir@v1", "s3://bucket/dir@v1"),
        ("http://host:8080/a@b", "http://host:8080/a@b"),
        ("memory://USER:s3cr3tPASS@bucket/dir", "memory://bucket/dir"),
        ("https://token@host/dir", "https://host/dir"),
        ("s3://KEY:abc/def+g@bucket/dir", "s3://bucket/dir"),
        ("ftp://user:p@ss@host:21/dir", "ftp://host:21/dir"),
        ("https://host/dir?X-Amz-Signature=abc&b=c#d", "https://host/dir"),
        ("zip://a::s3://user:secret@bucket/a.zip", "zip://a::s3://bucket/a.zip"),
        ("--out=s3://user:secret@bucket", "--out=s3://bucket"),
        ("pgd-20:rel_step=0.25", "pgd-20:rel_step=0.25"),
        ("a@b?c#d", "a@b?c#d"),
    ],
)
def test_what_is_public_of_a_url(url, expected):
    assert public(url) == expected


@given(secret=secrets, host=names, path=paths, form=st.sampled_from(["raw", "quoted", "user", "query", "fragment"]))
def test_no_secret_is_left_and_the_place_is_all_there(secret, host, path, form):
    place = f"{host}/{path}"
    url = {
        "raw": f"s3://user:{secret}@{place}",
        "quoted": f"s3://user:{quote(secret, safe='')}@{place}",
        "user": f"s3://{quote(secret, safe='')}@{place}",
        "query": f"s3://{place}?token={quote(secret, safe='')}&other=1",
        "fragment": f"s3://{place}#{secret}",
    }[form]
    assert public(url) == f"s3://{place}"
    written = secret if form in {"raw", "fragment"} else quote(secret, safe="")
    said = redacted(f"PermissionError: user:{written} may not read {secret!r}: {written} of {url}", url)
    assert written not in said
    assert secret not in said


def test_messages_keep_what_is_no_secret():
    said = "s3://u:pass@bucket/dir: cannot be read: FileNotFoundError: u:pass@bucket/dir"
    assert redacted(said, "s3://u:pass@bucket/dir") == (
        "s3://bucket/dir: cannot be read: FileNotFoundError: ***@bucket/dir"
    )
    assert redacted("http://a/b?x=1: no") == "http://a/b no"
    said = 'Invalid bucket name "KEY:s3cr3tPASS": it must match a pattern'
    assert (
        redacted(said, "s3://KEY:s3cr3tPASS/with/slash@bucket/x")
        == 'Invalid bucket name "***": it must match a pattern'
    )
    assert redacted("no url") == "no url"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("s3:/KEY:s3cr3t/PASS@bucket/x: no such file", "s3:/bucket/x: no such file"),
        ("is https:/user:s3cr3tPASS@host/x?sig=s3cr3t a run folder?", "is https:/host/x a run folder?"),
        ("//user:s3cr3tPASS@host/x: no such file", "//host/x: no such file"),
        ("a::s3:/s3cr3tPASS@bucket/x: no", "a::s3:/bucket/x: no"),
        ("npz:/data/a@b/test.npz: no such file", "npz:/data/a@b/test.npz: no such file"),
        ("/home/a@b/x?y: no", "/home/a@b/x?y: no"),
        ("C:/data/a@b", "C:/data/a@b"),
    ],
)
def test_a_url_that_was_taken_for_a_path_is_shown_without_its_secret(said, expected):
    assert redacted(said) == expected
