"""Leases: nobody gets what another has, leases run out, skips and undo hold; also with many processes at once."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lake.errors import InputError, LeaseLostError, SetupError
from lake.review_leases import Lease, Offer, ReviewLeases, offers
from lake.review_queue import open_items
from lake.tables import append
from tests.lake.review_kit import QUESTIONS, request, review

NOW = datetime(2026, 3, 1, tzinfo=UTC)
LATER = NOW + timedelta(seconds=901)


def leases(folder: Path, *items: Offer) -> ReviewLeases:
    made = ReviewLeases(folder / "leases.sqlite3", 900)
    made.offer(items or [Offer("a", 3, "ko", "q1"), Offer("b", 2, "en"), Offer("c", 1, "ko")])
    return made


def take(book: ReviewLeases, reviewer: str, now: datetime = NOW, lang: str | None = None) -> Lease:
    lease = book.lease_next(reviewer, now, lang)
    assert lease is not None
    return lease


def test_the_best_free_item_is_leased_and_held(tmp_path: Path) -> None:
    book = leases(tmp_path)
    kim = take(book, "kim")
    assert (kim.item_id, kim.request_id, kim.until) == ("a", "q1", NOW + timedelta(seconds=900))
    assert take(book, "lee").item_id == "b"
    assert take(book, "kim", NOW + timedelta(seconds=60)).token == kim.token  # a page that is loaded again
    assert take(book, "han", lang="ko").item_id == "c"
    assert book.lease_next("cho", NOW) is None
    assert book.counts(NOW) == {"open": 3, "leased": 3, "done": 0, "skipped": {}}


def test_a_lease_runs_out_unless_it_is_renewed(tmp_path: Path) -> None:
    book = leases(tmp_path)
    kim, lee = take(book, "kim"), take(book, "lee")
    lee = book.renew(lee, NOW + timedelta(seconds=800))
    assert take(book, "han", LATER).item_id == "a"
    with pytest.raises(LeaseLostError):
        book.renew(kim, LATER)
    with pytest.raises(LeaseLostError):
        book.skip(kim, "unclear", LATER)
    assert book.renew(lee, LATER).item_id == "b"
    book.release(kim)  # no error, and it takes nothing from the other one
    assert take(book, "han", LATER).item_id == "a"


def test_released_skipped_and_done_items(tmp_path: Path) -> None:
    book = leases(tmp_path)
    book.release(take(book, "kim"))
    kim = take(book, "kim")
    assert kim.item_id == "a"
    with pytest.raises(InputError):
        book.skip(kim, " ", NOW)
    book.skip(kim, "not my field", NOW)
    assert take(book, "kim").item_id == "b"
    lee = take(book, "lee")
    assert lee.item_id == "a"  # a skip is one's own
    book.done(lee, "r1", NOW)
    book.release(take(book, "kim"))
    assert take(book, "han").item_id == "b"
    assert book.counts(NOW) == {"open": 3, "leased": 1, "done": 1, "skipped": {"not my field": 1}}
    late = Lease("c", "cho", "lost", NOW, None)
    book.done(late, "r2", LATER)  # the work is kept though the lease is gone
    assert book.counts(LATER)["done"] == 2


def test_undo_hands_the_item_back(tmp_path: Path) -> None:
    book = leases(tmp_path)
    assert book.undo("kim", NOW) is None
    book.done(take(book, "kim"), "r1", NOW)
    book.skip(take(book, "kim"), "unclear", NOW)
    assert take(book, "kim").item_id == "c"
    back = book.undo("kim", NOW)
    assert back is not None and back.lease is not None
    assert (back.item_id, back.kind, back.lease.item_id) == ("b", "skipped", "b")
    first = book.undo("kim", NOW)
    assert first is not None and (first.kind, first.review_id) == ("done", "r1")
    assert take(book, "kim").item_id == "a" and book.undo("kim", NOW) is None
    book.skip(take(book, "kim"), "unclear", NOW)
    assert take(book, "lee").item_id == "a"
    lost = book.undo("kim", NOW)
    assert lost is not None and lost.lease is None  # another one has it meanwhile


def test_as_many_opinions_as_are_wanted(tmp_path: Path) -> None:
    book = leases(tmp_path, Offer("a", 2, "ko", wanted=2, reviewers=("cho",)), Offer("b", 1, "ko"))
    assert take(book, "cho").item_id == "b"  # reviewed `a` already
    kim, lee = take(book, "kim"), take(book, "lee")
    assert (kim.item_id, lee.item_id) == ("a", "a") and book.lease_next("han", NOW) is None
    book.done(kim, "r1", NOW)
    assert book.lease_next("han", NOW) is None
    book.release(lee)
    assert take(book, "han").item_id == "a"
    assert book.lease_next("kim", NOW) is None


def test_a_new_offer_forgets_what_left_and_what_the_lake_knows(tmp_path: Path) -> None:
    book = leases(tmp_path)
    kim = take(book, "kim")
    book.done(kim, "r1", NOW)
    book.skip(take(book, "lee"), "unclear", NOW)
    book.offer([Offer("a", 3, "ko"), Offer("b", 2, "ko")])  # the review is not in the lake yet
    assert take(book, "han").item_id == "b" and book.counts(NOW)["done"] == 1
    book.offer([Offer("a", 3, "ko", reviewers=("kim",)), Offer("b", 2, "ko")])  # it is, and others disagree
    assert book.counts(NOW)["done"] == 0
    assert book.lease_next("kim", NOW) is None and take(book, "cho").item_id == "a"
    book.offer([Offer("b", 2, "ko")])
    book.offer([Offer("a", 3, "ko"), Offer("b", 2, "ko")])  # stale: everybody may review it again
    assert take(book, "kim").item_id == "a"


def test_the_queue_is_offered_as_it_stands(tmp_path: Path) -> None:
    append(tmp_path, "requests", [request(n, text) for n, text in enumerate(QUESTIONS[:3])])
    append(tmp_path, "reviews", [review(1, QUESTIONS[0]), review(2, QUESTIONS[1])])
    rows = open_items(tmp_path, reviewers=3).items.to_dicts()
    book = leases(tmp_path, *offers(rows, 3))
    assert take(book, "kim").request_id == "q002"  # kim reviewed the others
    assert take(book, "lee").request_id == rows[0]["request_id"] != "q002"
    assert {offer.wanted for offer in offers(rows, 3)} == {2, 3}


def test_a_broken_file_and_a_nameless_reviewer_are_said(tmp_path: Path) -> None:
    (tmp_path / "leases.sqlite3").write_bytes(b"no database at all" * 100)
    with pytest.raises(SetupError, match="move the file away"):
        leases(tmp_path)
    with pytest.raises(InputError):
        leases(tmp_path / "other").lease_next(" ", NOW)


def work(path: Path, reviewer: str, results: multiprocessing.Queue[tuple[str, list[str]]]) -> None:
    book, got = ReviewLeases(path, 900), []
    while (lease := book.lease_next(reviewer, NOW)) is not None:
        got.append(lease.item_id)
        if len(got) % 7 == 0:
            book.skip(lease, "unclear", NOW)
        else:
            book.done(lease, f"{reviewer}-{len(got)}", NOW)
    results.put((reviewer, got))


def test_processes_never_share_an_item(tmp_path: Path) -> None:
    path = tmp_path / "leases.sqlite3"
    items = [Offer(f"i{n:03}", float(n % 17), "ko") for n in range(150)]
    ReviewLeases(path, 900).offer(items)
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    workers = [context.Process(target=work, args=(path, f"p{n}", results)) for n in range(6)]
    for worker in workers:
        worker.start()
    got = dict(results.get(timeout=120) for _ in workers)
    for worker in workers:
        worker.join()
    done = Counter(item for items in got.values() for place, item in enumerate(items, 1) if place % 7)
    assert max(done.values()) == 1  # nothing was reviewed twice
    skippers = {item: {name for name, items in got.items() if item in items} for item in {o.item_id for o in items}}
    assert all(done[item] == 1 or len(names) == len(workers) for item, names in skippers.items())
