"""The log of index versions: what it vouches for, what may be gone back to, and that a changed line is noticed."""

from __future__ import annotations

from pathlib import Path

import pytest

from lake.errors import IndexUnusableError
from lake.index_log import IndexLog


def test_the_newest_build_counts(tmp_path: Path) -> None:
    log = IndexLog(tmp_path / "log.jsonl")
    assert not log.knows("a", "1") and not log.knows("a", "") and log.built("a") == ""
    log.add("build", "a", "1")
    log.add("build", "a", "2")
    assert log.knows("a", "2") and not log.knows("a", "1") and not log.knows("b", "2")


def test_the_line_of_served_versions(tmp_path: Path) -> None:
    log = IndexLog(tmp_path / "log.jsonl")
    for version in ("a", "b", "c", "b"):
        log.add("serve", version, "")
    assert log.served() == ["a", "c", "b"]
    log.add("rollback", "b", "")
    assert log.served() == ["a", "c"]


@pytest.mark.parametrize("harm", ["changed", "left out", "swapped", "no object"])
def test_a_changed_line_is_noticed_and_nothing_is_added(tmp_path: Path, harm: str) -> None:
    log = IndexLog(tmp_path / "log.jsonl")
    for version in ("a", "b", "c"):
        log.add("build", version, "1")
    lines = log.path.read_bytes().splitlines(keepends=True)
    if harm == "changed":
        lines[0] = lines[0].replace(b'"a"', b'"z"')
    elif harm == "left out":
        del lines[1]
    elif harm == "swapped":
        lines[0], lines[1] = lines[1], lines[0]
    else:
        lines[1] = b"[]\n"
    log.path.write_bytes(b"".join(lines))
    for ask in (log.events, log.served, lambda: log.knows("a", "1"), lambda: log.add("build", "d", "1")):
        with pytest.raises(IndexUnusableError):
            ask()
    assert log.path.read_bytes() == b"".join(lines)


def test_a_torn_last_line_was_never_promised(tmp_path: Path) -> None:
    log = IndexLog(tmp_path / "log.jsonl")
    log.add("build", "a", "1")
    with log.path.open("ab") as handle:
        handle.write(b'{"kind": "bui')
    log.add("serve", "a", "1")
    assert [row["kind"] for row in log.events()] == ["build", "serve"]
