"""Lineage both ways, over several datasets and adapters; what was erased shows no ids."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from ulid import ULID

from lake.errors import AdapterError, DatasetError, InputError, UnknownSubjectError
from lake.journal.writer import JournalWriter
from lake.lineage_files import rows_of
from lake.schemas.records import FrameKind
from lake.trace import to_dict, trace_adapter, trace_dataset, trace_request, trace_row, tree
from lake.withdrawn import withdraw
from tests.lake.erase_kit import NOW, QUESTIONS, World, build, halves, make_world, register

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def answered_by(world: World, adapter: str) -> str:
    rid = str(ULID())
    with JournalWriter(world.paths.journal_dir, role="gateway") as writer:
        first, second = halves(rid, "어댑터가 대답한 새 질문이 하나 더 있었습니다")
        at = writer.append_blocking(FrameKind.REQUEST, first.payload())
        writer.append_blocking(FrameKind.RESPONSE, second.payload() | {"request_seq": at.seq, "adapter": adapter})
    return rid


def test_forward_from_a_request(world: World) -> None:
    found = trace_request(world.paths, world.ids[0])
    assert "journal" in found.where and found.answered_by is None and found.feedback == 1
    assert found.datasets == (world.dataset,) and [one.adapter_id for one in found.adapters] == [world.adapter]
    (row,) = found.rows
    assert world.ids[0] in row.source_ids and row.file == "rows.parquet"
    shown = tree(found)
    assert f"row {row.row_id}" in shown and f"adapter {world.adapter} (champion" in shown and "no adapter" in shown
    assert json.loads(json.dumps(to_dict(found)))["rows"][0]["dataset"] == world.dataset


def test_back_from_an_answer(world: World) -> None:
    rid = answered_by(world, world.adapter)
    found = trace_request(world.paths, rid, sources_shown=2)
    assert found.answered_by is not None and found.answered_by.adapter.adapter_id == world.adapter
    source = found.answered_by.dataset
    assert source.version == world.dataset and source.rows == len(QUESTIONS)
    assert len(source.source_ids) == 2 and source.sources > 2
    assert "→ in no dataset" in tree(found) and "more" in tree(found)
    strange = trace_request(world.paths, answered_by(world, "feedfacefeedface"))
    assert strange.answered_by is not None and strange.answered_by.adapter.state == "unknown"


def test_rows_datasets_and_adapters(world: World) -> None:
    (row,) = trace_request(world.paths, world.ids[1]).rows
    by_row = trace_row(world.paths, row.row_id)
    assert world.ids[1] in by_row.source_ids and [one.adapter_id for one in by_row.adapters] == [world.adapter]
    by_dataset = trace_dataset(world.paths, world.dataset, sources_shown=1000)
    assert set(world.ids) <= set(by_dataset.source_ids) and by_dataset.state == "kept"
    by_adapter = trace_adapter(world.paths, world.adapter)
    assert by_adapter.dataset.rows == len(QUESTIONS) and world.dataset in tree(by_adapter)
    for trace in (by_row, by_dataset, by_adapter):
        assert tree(trace)


def test_unknown_things_are_said(world: World) -> None:
    with pytest.raises(UnknownSubjectError, match="erased"):
        trace_request(world.paths, str(ULID()))
    with pytest.raises(InputError):
        trace_request(world.paths, "no id")
    with pytest.raises(DatasetError):
        trace_dataset(world.paths, "0" * 16)
    with pytest.raises(DatasetError):
        trace_row(world.paths, "row-none")
    with pytest.raises(AdapterError):
        trace_adapter(world.paths, "0" * 16)


def test_a_withdrawn_dataset_shows_no_ids(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    withdraw(world.paths.datasets_dir / world.dataset, "e1", 1, NOW)
    shown = trace_dataset(world.paths, world.dataset)
    assert shown.state == "withdrawn" and shown.source_ids == () and shown.adapters
    assert register(world, build_again(world), 5) != world.adapter
    assert len(trace_request(world.paths, world.ids[2]).datasets) == 2


def build_again(world: World) -> str:
    with JournalWriter(world.paths.journal_dir, role="gateway") as writer:
        first, second = halves(str(ULID()), "겨울 캠핑 동호회 회비를 나눠 걷는 프로그램은 무엇이 좋을까요")
        at = writer.append_blocking(FrameKind.REQUEST, first.payload())
        writer.append_blocking(FrameKind.RESPONSE, second.payload() | {"request_seq": at.seq})
    from lake.ingest import ingest

    ingest(world.paths, NOW)
    return build(world)


def test_any_file_with_sources_is_looked_at_and_only_row_groups_that_may_hold_an_id(tmp_path: Path) -> None:
    folder = tmp_path / "d1"
    folder.mkdir()
    ids = [[f"id-{n:04}", f"label-{n:04}"] for n in range(100)]
    rows = pa.table({"row_id": [f"row-{n}" for n in range(100)], "source_ids": ids, "text": ["x"] * 100})
    pq.write_table(rows, folder / "dpo.parquet", row_group_size=10)
    pq.write_table(pa.table({"key": ["id-0042"]}), folder / "test_shingles.parquet")
    found = list(rows_of(folder, {"id-0042", "label-0077", "id-none"}))
    assert [(one.file, one.row_id, one.split) for one in found] == [
        ("dpo.parquet", "row-42", ""),
        ("dpo.parquet", "row-77", ""),
    ]
    assert list(rows_of(folder, {"zzz"})) == []
    (folder / "broken.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DatasetError, match=r"broken\.parquet"):
        list(rows_of(folder, {"id-0042"}))


def test_the_command(world: World) -> None:
    env = {
        "PATH": "/usr/bin:/bin",
        "MULLE_DATA_DIR": str(world.paths.data_dir),
        "MULLE_MODELS_DIR": str(world.paths.models_dir),
    }
    env["HOME"] = str(world.paths.data_dir)

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "flows.trace", *arguments]
        return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)

    done = call(world.ids[0], "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["datasets"] == [world.dataset], done.stderr
    assert call(str(ULID())).returncode == 65
