"""The byte search finds a word in every form and container, and says what it could not search."""

from __future__ import annotations

import gzip
import html
import json
import random
import sqlite3
import zipfile
from contextlib import closing
from pathlib import Path

import orjson
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lake.erase_files import clear, clear_sqlite
from lake.erase_search import Finding, Tally, Words, search_buffer, search_file, search_tree

WORD = '그 사람이 "따옴표" & 꺾쇠 <를> 썼던 문장\'도'


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize(
    "data",
    [
        WORD.encode(),
        orjson.dumps({"q": WORD}),
        json.dumps({"q": WORD}).encode(),
        html.escape(WORD).encode(),
        WORD.replace("'", "''").encode(),
    ],
)
def test_every_form_is_found(tmp_path: Path, data: bytes, many: bool) -> None:
    words = Words([WORD, *(f"another word {n:05}" for n in range(100 * many))])
    padded = b"\xff\x00" * 9_000_000 + data + b"\x80" * 100  # beyond one step, and no UTF-8
    assert search_file(write(tmp_path / "x", padded), words) == Finding(str(tmp_path / "x"), "raw")
    assert search_file(write(tmp_path / "y", padded.replace(data, b"")), words) is None


def test_a_word_across_the_border_of_two_steps_is_found() -> None:
    words = Words([f"pattern number {n:05}" for n in range(20)])
    for before in range((8 << 20) - 25, (8 << 20) + 1, 5):
        assert search_buffer(b"-" * before + b"pattern number 00007" + b"-", words) == "raw"


def test_containers_are_opened(tmp_path: Path) -> None:
    words = Words([WORD])
    nested = pa.table({"a": [{"items": [{"text": WORD * 3}]}], "n": [1]})
    pq.write_table(nested, tmp_path / "a.parquet", compression="zstd", write_statistics=False)
    coded = pa.table({"a": pa.array(["x", WORD, "x"]).dictionary_encode()})
    pq.write_table(coded, tmp_path / "b.parquet", compression="zstd", write_statistics=False)
    (tmp_path / "c.gz").write_bytes(gzip.compress(b"-" * 100_000 + WORD.encode()))
    with pa.CompressedOutputStream(str(tmp_path / "d.zst"), "zstd") as stream:
        noise = "".join(random.Random(1).choices("abcdefgh ", k=20_000))  # makes the codec code its literals
        stream.write(noise.encode() + WORD.encode())
    with zipfile.ZipFile(tmp_path / "e.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inner.txt", "-" * 1000 + WORD)
    with closing(sqlite3.connect(tmp_path / "f.sqlite")) as db, db:
        db.execute("CREATE TABLE t (v TEXT)")
        db.execute("INSERT INTO t VALUES (?)", ("가" * 9000 + WORD + "나" * 9000,))
    (tmp_path / "g.parquet").write_bytes(b"PAR1 truncated")
    pq.write_table(pa.table({"a": ["nothing"]}), tmp_path / "h.parquet")
    (tmp_path / "skipped").mkdir()
    (tmp_path / "skipped" / "x").write_text(WORD)
    (tmp_path / "link").symlink_to(tmp_path / "c.gz")
    tally = Tally()
    found = {Path(one.path).name: one.how for one in search_tree(tmp_path, words, [tmp_path / "skipped"], tally)}
    assert found.keys() == {"a.parquet", "b.parquet", "c.gz", "d.zst", "e.zip", "f.sqlite", "g.parquet"}
    assert found["g.parquet"] == "unreadable" and found["c.gz"] == "gzip" and found["d.zst"] == "zstd"
    assert tally.files == 8 and tally.bytes > 100


def test_short_words_are_counted_not_searched() -> None:
    words = Words(["k1", "", "long enough"])
    assert words.words == {"long enough"} and words.left_out == 1
    assert words.among(pl.Series(["is it long enough?", None, "k1"])) == {"long enough"}
    assert not Words(["k1"]) and not Words(["k1"]).is_in(b"k1")


def test_files_are_cleared_each_in_its_way(tmp_path: Path) -> None:
    words = Words([WORD, "01JD8Y7K3M5QX0R2T4V6W8Z9AB"])
    line = orjson.dumps({"q": WORD}) + b"\n"
    files = {
        "a.jsonl": line + b'{"q":"stays"}\n',
        "b.log": b"before " + WORD.encode() + b" after\n",
        "c.html": html.escape(WORD).encode() + b"<p>stays</p>",
    }
    for name, data in files.items():
        assert clear(Finding(str(write(tmp_path / name, data)), "raw"), words)
    assert (tmp_path / "a.jsonl").read_bytes() == b'{"q":"stays"}\n'
    log = (tmp_path / "b.log").read_bytes()
    assert len(log) == len(files["b.log"]) and log.startswith(b"before xx") and log.endswith(b"x after\n")
    assert (tmp_path / "c.html").read_bytes() == b"[erased]<p>stays</p>"
    assert list(search_tree(tmp_path, words)) == []
    for name in ("log.jsonl", "model.bin"):  # chained, or of an unknown kind
        assert not clear(Finding(str(write(tmp_path / name, line)), "raw"), words)
        assert (tmp_path / name).read_bytes() == line
    assert clear(Finding(str(tmp_path / "gone.json"), "raw"), words)


def test_sqlite_is_cleared_with_its_free_pages_and_clashing_keys(tmp_path: Path) -> None:
    path, words = tmp_path / "x.sqlite", Words([WORD, "01JD8Y7K3M5QX0R2T4V6W8Z9AB"])
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE t (id TEXT PRIMARY KEY, v TEXT)")
        db.execute("CREATE TABLE former (v TEXT)")
        db.executemany("INSERT INTO t VALUES (?, ?)", [(WORD, "a"), ("01JD8Y7K3M5QX0R2T4V6W8Z9AB", "b"), ("z", "c")])
        db.execute("INSERT INTO former VALUES (?)", (WORD,))
        db.execute("DELETE FROM former")  # its bytes stay in the page
    assert clear_sqlite(path, words) >= 2
    assert search_file(path, words) is None
    with closing(sqlite3.connect(path)) as db:
        assert ("z", "c") in db.execute("SELECT * FROM t").fetchall()
