"""The letters are HAProxy's, and each counts for one side."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hermes_lb import errors
from hermes_lb.observe import termination
from hermes_lb.observe.termination import PHASE, WHO, aborted_by


@pytest.mark.parametrize(
    ("code", "by"),
    [
        ("--", None), ("----", None), ("--NI", None), ("LR--", None),
        ("CD", "client"), ("CDVN", "client"), ("CH", "client"), ("CQ", "client"), ("cD", "client"),
        ("SC", "server"), ("SH", "server"), ("sC", "server"), ("sD", "server"), ("sQ", "server"),
        ("PR", "proxy"), ("PH", "proxy"), ("RC", "proxy"), ("KD", "proxy"),
    ],
)  # fmt: skip
def test_who_aborted(code: str, by: str | None) -> None:
    assert aborted_by(code) == by


def test_every_letter_has_an_answer() -> None:
    answers = {who: aborted_by(who + "D") for who in WHO}
    assert [who for who, by in answers.items() if by is None] == ["-", "L"]
    assert set(answers.values()) == {None, "client", "server", "proxy"}


def test_the_documentation_says_what_to_do_about_each_letter() -> None:
    text = (Path(__file__).parents[2] / "docs" / "logs.md").read_text()
    section = text.partition("\n## Termination codes\n")[2].partition("\n## ")[0]
    cells = [row.split("|")[1] for row in section.splitlines() if row.startswith("| `")]
    codes = {code for cell in cells for code in re.findall(r"`(..)`", cell)}
    assert len(codes) > 20
    assert {code[0] for code in codes} == set(WHO)
    assert {code[1] for code in codes} - {"."} == set(PHASE)


@pytest.mark.parametrize("code", ["I-", "UD"])
def test_what_haproxy_says_and_this_balancer_never_does_is_not_listed(code: str) -> None:
    with pytest.raises(KeyError):
        aborted_by(code)


@pytest.mark.parametrize("code", ["", "X-", "?"])
def test_an_unknown_letter_is_an_error(code: str) -> None:
    with pytest.raises(KeyError):
        aborted_by(code)


def test_the_errors_only_use_known_letters() -> None:
    kinds = [errors.ExchangeFailed]
    for kind in kinds:
        kinds += kind.__subclasses__()
    codes = [kind.termination for kind in kinds] + [errors.RequestRefused(400, "").termination]
    assert len(codes) > 7
    for code in codes:
        assert code[0] in WHO
        assert code[1] in PHASE


def test_normal_ends_are_spelt_by_known_letters() -> None:
    assert termination.NORMAL[0] in WHO
    assert termination.NORMAL[1] in PHASE
    assert termination.NO_COOKIE[0] in termination.REQUEST_COOKIE
    assert termination.NO_COOKIE[1] in termination.RESPONSE_COOKIE
