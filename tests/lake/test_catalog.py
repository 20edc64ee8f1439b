"""Catalogues as users have them: three formats, odd encodings, bad rows reported by line, the rest kept."""

from __future__ import annotations

import tracemalloc
import unicodedata
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lake.catalog import CatalogLoad, RowReject, load_catalog, slug
from lake.catalog_files import MAX_LINE_BYTES
from lake.errors import CatalogError


def jsonl(path: Path, *rows: dict[str, Any] | bytes) -> Path:
    path.write_bytes(b"\n".join(row if isinstance(row, bytes) else orjson.dumps(row) for row in rows) + b"\n")
    return path


def reasons(load: CatalogLoad) -> dict[int, str]:
    return {reject.line: reject.reason for reject in load.rejects}


GOOD = {"name": "Jira", "description": "Issue tracker"}


def test_a_full_row_and_a_bare_row(tmp_path: Path) -> None:
    full = {
        "id": "notion",
        "name": "Notion",
        "aliases": ["노션"],
        "url": "https://www.notion.so",
        "category": "docs",
        "tags": "wiki, notes; wiki ;",
        "description_ko": "문서와 위키",
        "description_en": "Docs and wiki",
    }
    load = load_catalog(jsonl(tmp_path / "c.jsonl", full, GOOD))
    notion, jira = load.tools
    assert (notion.id, notion.aliases, notion.tags) == ("notion", ("노션",), ("wiki", "notes"))
    assert (notion.description, notion.text("ko"), notion.text("en")) == (
        "문서와 위키",
        "문서와 위키",
        "Docs and wiki",
    )
    assert (jira.id, jira.text("ko"), jira.url, jira.tags) == ("jira", "Issue tracker", "", ())
    assert load.rejects == []


BAD_ROWS: list[tuple[dict[str, Any] | bytes, str]] = [
    (b'{"name": "x", ', "not valid JSON"),
    (b"[1]", "not a JSON object"),
    (b'{"name": "\xff", "description": "d"}', "not valid JSON"),
    (b'{"name": "\\ud800", "description": "d"}', "not valid JSON"),
    ({"description": "d"}, "no name"),
    ({"name": "  ", "description": "d"}, "no name"),
    ({"name": "x"}, "no description"),
    ({"name": "x", "description": ""}, "no description"),
    ({"name": 7, "description": "d"}, "name is not text but int"),
    ({"name": "x", "description": "d" * 20_001}, "description is longer than 20000"),
    ({"name": "x", "description": "d\x00"}, "description is not text"),
    ({"name": "x", "description": "d", "url": "ftp://x.org"}, "url 'ftp://x.org'"),
    ({"name": "x", "description": "d", "url": "javascript:alert(1)"}, "url"),
    ({"name": "x", "description": "d", "url": "https://"}, "url"),
    ({"name": "x", "description": "d", "url": "https://a b"}, "url"),
    ({"name": "x", "description": "d", "url": "https://[::1"}, "url"),
    ({"name": "x", "description": "d", "tags": [1]}, "tags is neither"),
    ({"name": "x", "description": "d", "tags": ["t" * 15_000, "u" * 15_000]}, "tags is longer"),
    ({"name": "x", "description": "d", "id": "jira-1"}, "duplicate id"),
    ({"name": "x", "description": "d", "id": "i" * 201}, "id is longer"),
    (b'{"name": "' + b"x" * MAX_LINE_BYTES + b'"}', "line is longer"),
]


@pytest.mark.parametrize(("row", "reason"), BAD_ROWS, ids=[reason for _, reason in BAD_ROWS])
def test_a_bad_row_is_reported_by_line_and_the_rest_goes_on(
    tmp_path: Path, row: dict[str, Any] | bytes, reason: str
) -> None:
    load = load_catalog(jsonl(tmp_path / "c.jsonl", GOOD | {"id": "jira-1"}, b"", row, GOOD))
    assert [tool.id for tool in load.tools] == ["jira-1", "jira"]
    (reject,) = load.rejects
    assert reject.line == 3 and reject.reason.startswith(reason)


def test_texts_just_within_the_limit_pass(tmp_path: Path) -> None:
    assert load_catalog(jsonl(tmp_path / "c.jsonl", {"name": "x", "description": "d" * 20_000})).rejects == []


def test_ids_follow_from_names_and_never_push_a_given_id_aside(tmp_path: Path) -> None:
    names = ["Visual Studio Code", "노션 AI", "C++", "C#", "!!!", "노션 AI"]
    rows = [{"name": name, "description": "d"} for name in names]
    load = load_catalog(jsonl(tmp_path / "c.jsonl", *rows, {"id": "c", "name": "The C", "description": "d"}))
    assert [tool.id for tool in load.tools] == [
        "visual-studio-code",
        "노션-ai",
        "c-2",
        "c-3",
        "tool",
        "노션-ai-2",
        "c",
    ]
    assert slug("가" * 500) == "가" * 200


def test_texts_are_nfc(tmp_path: Path) -> None:
    apart = unicodedata.normalize("NFD", "노션")
    (tool,) = load_catalog(jsonl(tmp_path / "c.jsonl", {"name": apart, "description": apart, "tags": [apart]})).tools
    assert (tool.name, tool.description, tool.tags, tool.id) == ("노션", "노션", ("노션",), "노션")


def test_the_version_follows_the_content_not_the_order(tmp_path: Path) -> None:
    a, b = {"id": "a", "name": "A", "description": "d"}, {"id": "b", "name": "B", "description": "d"}
    versions = [
        load_catalog(jsonl(tmp_path / "c.jsonl", *rows)).version
        for rows in ([a, b], [b, a], [b, b"broken", a], [a | {"url": "https://a.org"}, b])
    ]
    assert versions[0] == versions[1] == versions[2] != versions[3]
    assert len(versions[0]) == 64


CSV = (
    'Name,Description,URL,tags,owner\r\n노션,"문서,\n위키",https://notion.so,"문서, 위키",kim\r\n'
    ",없음,,,\r\nJira,이슈,,,\r\n"
)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp949"])
def test_csv_in_the_encodings_of_korean_excel(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "c.CSV"
    path.write_bytes(CSV.encode(encoding))
    load = load_catalog(path)
    assert [tool.name for tool in load.tools] == ["노션", "Jira"]
    assert load.tools[0].description == "문서,\n위키" and load.tools[0].tags == ("문서", "위키")
    assert load.rejects == [RowReject(4, "no name")]  # the quoted line break counts
    assert load.ignored_columns == {"owner": 1}


@pytest.mark.parametrize(("suffix", "sign"), [(".csv", ";"), (".tsv", "\t")])
def test_other_delimiters(tmp_path: Path, suffix: str, sign: str) -> None:
    path = tmp_path / f"c{suffix}"
    path.write_text(f"name{sign}description\nJira{sign}issues, mostly\n", "utf-8")
    assert load_catalog(path).tools[0].description == "issues, mostly"


def test_bad_csv_rows_do_not_end_the_file(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    lines = [
        b"name,description",
        b"A,a",
        b"B,b,c",
        b"C," + b"x" * 200_000,
        b"\xff\xfe\x80,d",
        b"",
        b"D,d",
        b"E,e\x00",
    ]
    path.write_bytes(b"\n".join(lines) + b"\n")
    load = load_catalog(path)
    assert [tool.name for tool in load.tools] == ["A", "D"]
    assert {line: reason[:14] for line, reason in reasons(load).items()} == {
        3: "3 fields, the ",
        4: "not valid CSV:",
        5: "name is not te",
        8: "description is",
    }


def test_parquet_reports_rows(tmp_path: Path) -> None:
    rows = [
        GOOD | {"tags": ["pm"]},
        {"name": None, "description": "d"},
        {"name": "X", "description": "d", "tags": []},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "c.parquet")
    load = load_catalog(tmp_path / "c.parquet")
    assert [(tool.name, tool.tags) for tool in load.tools] == [("Jira", ("pm",)), ("X", ())]
    assert load.rejects == [RowReject(2, "no name")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.jsonl", b"", "no usable row"),
        ("c.jsonl", b"nonsense\n", "line 1: not valid JSON"),
        ("c.csv", b"title,text\na,b\n", "no column `name`"),
        ("c.csv", b"", "no column `name`"),
        ("c.parquet", b"PAR1 not really", "not a readable Parquet"),
        ("c.xlsx", b"x", "convert the catalogue"),
    ],
)
def test_a_file_without_use_says_what_to_do(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CatalogError, match=message):
        load_catalog(tmp_path / name)


def test_a_missing_file_or_a_folder_says_so(tmp_path: Path) -> None:
    (tmp_path / "d.jsonl").mkdir()
    for name in ("none.jsonl", "none.csv", "none.parquet", "d.jsonl"):
        with pytest.raises(CatalogError, match="can't be read"):
            load_catalog(tmp_path / name)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_files_are_streamed(tmp_path: Path, suffix: str) -> None:
    """30 MB of rows that are all refused but one: memory stays far below the size of the file."""
    path = tmp_path / f"c{suffix}"
    filler = "x" * 30_000
    with path.open("w") as handle:
        handle.write("name,description\n" if suffix == ".csv" else "")
        for _ in range(1000):
            handle.write(f"n,{filler}\n" if suffix == ".csv" else f'{{"name":"n","description":"{filler}"}}\n')
        handle.write("Jira,d\n" if suffix == ".csv" else '{"name":"Jira","description":"d"}\n')
    tracemalloc.start()
    load = load_catalog(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(load.rejects) == 1000 and len(load.tools) == 1
    assert peak < 8 << 20 < path.stat().st_size


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300), st.sampled_from([".jsonl", ".csv", ".tsv", ".parquet"]))
def test_any_bytes_give_tools_or_one_clear_error(tmp_path: Path, junk: bytes, suffix: str) -> None:
    path = tmp_path / f"fuzz{suffix}"
    path.write_bytes((b"name,description\n" if suffix == ".csv" else b"") + junk)
    try:
        load = load_catalog(path)
    except CatalogError:
        return
    assert load.tools and len({tool.id for tool in load.tools}) == len(load.tools)
