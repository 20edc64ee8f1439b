"""The corpus in its short form: what it holds, that measuring it can fail, and a floor under the recall.

The full form, with the published figures, is `make proof NAME=pii`.
"""

from __future__ import annotations

from lake.privacy.mask import find
from lake.privacy.types import PII_TYPES, Span
from tests.lake.privacy_corpus import SENTENCES, STRUCTURED, Case, corpus, score


def test_no_sentence_is_both_tuned_on_and_reported() -> None:
    sides = [
        {*SENTENCES[side]["clean"], *(text for texts in SENTENCES[side]["planted"].values() for text in texts)}
        for side in ("tune", "report")
    ]
    assert not sides[0] & sides[1]
    assert min(map(len, sides)) > 100
    assert SENTENCES["tune"]["planted"].keys() == SENTENCES["report"]["planted"].keys()


def test_the_same_seed_gives_the_same_corpus() -> None:
    assert list(corpus(3, 7)) == list(corpus(3, 7)) != list(corpus(3, 8))
    assert {case.kind for case in corpus(3, 7)} == {"", *PII_TYPES}


def test_measuring_notices_what_is_missed_half_found_misnamed_and_found_for_nothing() -> None:
    case = Case("call 010-1234-5678 now", "phone", 5, 18)
    assert score([case], lambda text: []).masked["phone"] == 0
    assert score([case], lambda text: [Span(5, 14, "phone")]).masked["phone"] == 0
    misnamed = score([case], lambda text: [Span(5, 18, "card")])
    assert (misnamed.masked["phone"], misnamed.typed["phone"]) == (1, 0)
    wrong = score([case, Case("nothing here")], lambda text: [Span(0, 4, "phone")])
    assert (wrong.right["phone"], wrong.clean_hit, wrong.precision("phone")) == (0, 1, 0.0)
    right = score([case], find)
    assert right.recall("phone") == right.precision("phone") == 1.0


def test_short_form() -> None:
    result = score(corpus(40, 20_261_125))
    planted = sum(result.planted[kind] for kind in STRUCTURED)
    assert sum(result.masked[kind] for kind in STRUCTURED) >= 0.99 * planted
    assert all(result.recall(kind) >= 0.95 for kind in STRUCTURED), result.table()
    assert result.recall("address") >= 0.8 and result.recall("name") >= 0.8, result.table()
    assert result.clean_hit <= 0.01 * result.clean, result.table()
