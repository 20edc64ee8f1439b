"""Tools in a mapped table: what was written comes back, in order, whole or one by one; a spooled catalogue is the
same as a loaded one.
"""

from __future__ import annotations

from pathlib import Path

import orjson
import pyarrow as pa
import pytest

from lake.catalog import load_catalog, spool_catalog
from lake.errors import CatalogError
from lake.schemas.rows import Tool
from lake.tool_table import BATCH_ROWS, ToolTable, write_tools


def made(count: int) -> list[Tool]:
    return [
        Tool(f"t{n}", f"이름 {n}", "설명", tags=("가", str(n)) if n % 2 else (), aliases=("a",)) for n in range(count)
    ]


@pytest.mark.parametrize("count", [0, 1, BATCH_ROWS, BATCH_ROWS + 3])
def test_what_was_written_comes_back(tmp_path: Path, count: int) -> None:
    tools = made(count)
    assert write_tools(tmp_path / "t.arrow", iter(tools)) == count
    table = ToolTable(tmp_path / "t.arrow")
    assert len(table) == count and list(table) == tools
    for place in {0, count // 2, count - 1} if count else ():
        assert table[place] == tools[place]
    with pytest.raises(IndexError):
        table[count]
    if count:
        assert table[-1] == tools[-1] and table[-2:] == tools[-2:]


def test_another_file_is_refused(tmp_path: Path) -> None:
    with pa.OSFile(str(tmp_path / "t.arrow"), "wb") as sink:
        schema = pa.schema([("id", pa.string())])
        with pa.ipc.new_file(sink, schema) as writer:
            writer.write_batch(pa.record_batch([pa.array(["x"])], schema=schema))
    with pytest.raises(pa.ArrowInvalid, match="columns"):
        ToolTable(tmp_path / "t.arrow")


def test_a_spooled_catalogue_is_the_loaded_one(tmp_path: Path) -> None:
    rows = [
        {"id": "jira-1", "name": "X", "description": "d"},
        {"name": "Jira", "description": "이슈", "tags": ["a"], "owner": "kim"},
        {"name": "Jira", "description": "둘째"},
        {"id": "jira-1", "name": "again", "description": "d"},
        {"description": "no name"},
    ]
    path = tmp_path / "c.jsonl"
    path.write_bytes(b"\n".join(map(orjson.dumps, rows)))
    (tmp_path / "spool").mkdir()
    loaded, spooled = load_catalog(path), spool_catalog(path, tmp_path / "spool")
    assert list(spooled.tools) == list(loaded.tools) and len({tool.id for tool in spooled.tools}) == 3
    assert (spooled.version, spooled.rejects, spooled.ignored_columns) == (
        loaded.version, loaded.rejects, loaded.ignored_columns,
    )  # fmt: skip
    assert [reject.line for reject in spooled.rejects] == [4, 5] and spooled.ignored_columns == {"owner": 1}


def test_a_catalogue_without_a_usable_row_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_bytes(b'{"name": "x"}\n')
    with pytest.raises(CatalogError, match="line 1"):
        spool_catalog(tmp_path / "c.jsonl", tmp_path)
