"""A build killed at any of its writes: the next one gives the same dataset and the same record, and leaves nothing.

The child dies by SIGKILL at its nth rename, folder rename or fsync, which is every place where something becomes
visible or durable; n goes up until a build lives. In between lie only writes to files that nothing names yet.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from lake.tables import scan
from tests.flows.build_kit import Lake, feedback, request, review, wishes

CALLS = ("fsync", "rename", "replace")


def _build(root: Path, fatal: int) -> None:
    """Build, and die before the call number `fatal`."""
    count = 0

    def dying(call: Any) -> Any:
        def wrapped(*args: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **options)

        return wrapped

    for name in CALLS:
        setattr(os, name, dying(getattr(os, name)))
    Lake(root).build(holdout_share=0.3, key_share=1.0)


def _fill(lake: Lake) -> None:
    texts = wishes(30)
    lake.add(
        requests=[request(n, text) for n, text in enumerate(texts)],
        reviews=[review(n, text) for n, text in enumerate(texts[:20])],
        feedback=[feedback(n, f"q{n:03}", thumb="down") for n in range(20, 25)],
    )


def _content(root: Path) -> dict[str, bytes]:
    folders = [path for path in (root / "datasets").iterdir() if path.is_dir() and path.name != "splits"]
    (folder,) = folders  # one version, nothing that a killed build left
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name != "manifest.json"}


@pytest.mark.slow
def test_a_build_killed_anywhere_is_made_good_by_the_next(tmp_path: Path) -> None:
    whole = Lake(tmp_path / "whole")
    _fill(whole)
    whole.build(holdout_share=0.3, key_share=1.0)
    wanted = _content(whole.root)
    context = multiprocessing.get_context("spawn")
    killed = 0
    for fatal in range(1, 200):
        root = tmp_path / f"killed{fatal}"
        lake = Lake(root)
        _fill(lake)
        child = context.Process(target=_build, args=(root, fatal))
        child.start()
        child.join()
        lived = child.exitcode == 0
        assert lived or child.exitcode == -signal.SIGKILL
        killed += not lived
        report = lake.build(holdout_share=0.3, key_share=1.0)
        assert _content(root) == wanted
        assert [one["version"] for one in scan(root / "lake", "datasets").collect().to_dicts()] == [report["dataset"]]
        noted = scan(root / "lake", "rejects").collect()
        assert (noted.height, noted["source_id"].n_unique()) == (10, 10)
        if lived:
            break
    assert killed >= 15
