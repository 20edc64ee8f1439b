"""What was erased does not come back: ingest drops it and counts it, look-ups don't know it, its datasets are shut."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from ulid import ULID

from lake.dataset import read_dataset
from lake.erased_ids import ErasedIds, erased_ids, id_hash
from lake.errors import WithdrawnError
from lake.ingest import ingest
from lake.journal.writer import JournalWriter
from lake.lookup import find_request, request_facts
from lake.schemas.records import FrameKind
from lake.settings import LakeSettings
from lake.tables import append
from lake.withdrawn import is_withdrawn, withdraw, withdrawn_versions
from tests.lake.ingest_kit import NOW, feedback, put, review, rows, serve


@pytest.fixture
def paths(tmp_path: Path) -> LakeSettings:
    return LakeSettings(data_dir=tmp_path)


def hide(paths: LakeSettings, *ids: str) -> None:
    row = {
        "timestamp": NOW, "erasure_id": str(ULID()), "kind": "request", "subject_sha256": "s",
        "ids_sha256": [id_hash(one) for one in ids], "state": "hidden", "window_days": 7.0,
    }  # fmt: skip
    append(paths.lake_dir, "erasures", [row])


def test_nothing_is_erased_where_there_is_no_table(paths: LakeSettings) -> None:
    assert not erased_ids(paths.lake_dir) and not ErasedIds().holds("x")


def test_hashes_of_all_erasures_hold(paths: LakeSettings) -> None:
    hide(paths, "a", "b")
    hide(paths, "c")
    known = erased_ids(paths.lake_dir)
    assert known.among(["a", "b", "c", "d"]) == {"a", "b", "c"} and not known.holds(None)
    assert known.names({"original_request_id": "c"}) and not known.names({"request_id": "d", "review_id": "a"})


def test_ingest_drops_what_was_erased_and_what_names_it(paths: LakeSettings) -> None:
    with JournalWriter(paths.journal_dir, role="gateway") as writer:
        gone, stays = serve(writer, 2)
        put(writer, FrameKind.FEEDBACK, feedback(1, gone))
        put(writer, FrameKind.FEEDBACK, feedback(2, stays))
        put(writer, FrameKind.REVIEW, review(1, request_id=gone))
        put(writer, FrameKind.REVIEW, review(2, original_request_id=gone))
        put(writer, FrameKind.REVIEW, review(3))
        assert find_request(paths, gone) is not None
        hide(paths, gone)
        report = ingest(paths, NOW)
    assert report.total.closes and report.run.dropped == {"erased": 5} and report.total.dropped == {"erased": 5}
    assert [row["request_id"] for row in rows(paths)] == [stays]
    assert [row["request_id"] for row in rows(paths, "feedback")] == [stays]
    assert [row["review_id"] for row in rows(paths, "reviews")] == ["r-3"]
    assert ingest(paths, NOW).run.dropped == {}
    assert find_request(paths, gone) is None and find_request(paths, stays) is not None
    assert request_facts(paths, gone, NOW) is None and request_facts(paths, gone, NOW + timedelta(days=900)) is None


def test_feedback_that_was_erased_is_not_shown(paths: LakeSettings) -> None:
    with JournalWriter(paths.journal_dir, role="gateway") as writer:
        (rid,) = serve(writer)
        put(writer, FrameKind.FEEDBACK, feedback(1, rid))
        put(writer, FrameKind.FEEDBACK, feedback(2, rid))
        hide(paths, "f-1")
        found = find_request(paths, rid, with_feedback=True)
    assert found is not None and [one["feedback_id"] for one in found.feedback] == ["f-2"]


def test_a_withdrawn_dataset_is_not_read(tmp_path: Path) -> None:
    folder = tmp_path / "d1"
    folder.mkdir()
    assert withdraw(folder, "e1", 2, NOW) and not withdraw(folder, "e2", 2, NOW)
    assert is_withdrawn(folder) and withdrawn_versions(tmp_path) == {"d1": "e1"}
    with pytest.raises(WithdrawnError, match="Build again"):
        read_dataset(folder)
