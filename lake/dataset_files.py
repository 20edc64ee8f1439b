"""The files of a dataset version, the same bytes for the same rows: JSON Lines, Parquet, and reading back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from lake.errors import DatasetError
from lake.rules.certificate import SideRows
from lake.rules.render import RenderedRow
from lake.rules.shingles import from_rows, question_key, shingle
from lake.schemas.tables import RETRIEVED_ITEM
from lake.text import sha256_text

ROWS = pa.schema(
    [
        pa.field("row_id", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("cluster_id", pa.string(), nullable=False),
        pa.field("question", pa.string(), nullable=False),
        pa.field("lang", pa.string(), nullable=False),
        pa.field("answer", pa.string(), nullable=False),
        pa.field("label_source", pa.string(), nullable=False),
        pa.field("source_ids", pa.list_(pa.string()), nullable=False),
        pa.field("tools", pa.list_(pa.string()), nullable=False),
        pa.field("shown_ids", pa.list_(pa.string()), nullable=False),  # entries that the prompt shows
        pa.field("prompt_sha256", pa.string(), nullable=False),
        pa.field("prompt_tokens", pa.int64(), nullable=False),
        pa.field("completion_tokens", pa.int64(), nullable=False),
        pa.field("retrieved_items", pa.list_(RETRIEVED_ITEM), nullable=False),
    ]
)

TEST_SHINGLES = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),  # sha256 of the normalised question
        pa.field("shingles", pa.list_(pa.uint64()), nullable=False),
    ]
)


def jsonl(values: Iterable[Any]) -> bytes:
    """One compact JSON value a line."""
    return b"".join(orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE) for value in values)


def to_parquet(table: pa.Table) -> bytes:
    """zstd Parquet; no time and no path goes in, so the same table has the same bytes."""
    sink = BytesIO()
    pq.write_table(table, sink, compression="zstd", compression_level=3)
    return sink.getvalue()


def rows_table(rows: Sequence[RenderedRow]) -> pa.Table:
    """rows.parquet: what each row is made of and where it came from."""
    return pa.Table.from_pylist(
        [
            {
                "row_id": one.row.row_id,
                "split": one.row.split,
                "cluster_id": one.row.cluster_id,
                "question": one.row.question,
                "lang": one.row.lang,
                "answer": one.row.answer,
                "label_source": one.row.label_source,
                "source_ids": one.row.source_ids,
                "tools": one.row.tools,
                "shown_ids": one.prompt.used_ids,
                "prompt_sha256": one.prompt.sha256,
                "prompt_tokens": one.prompt_tokens,
                "completion_tokens": one.completion_tokens,
                "retrieved_items": [asdict(item) for item in one.row.retrieved_items],
            }
            for one in rows
        ],
        schema=ROWS,
    )


def table_of_tests(questions: Sequence[str]) -> pa.Table:
    """test_shingles.parquet: hashes only, so that a dataset never carries the test questions themselves."""
    texts = {question_key(question): question for question in questions}
    keys = sorted(texts)
    shingles = shingle([texts[key] for key in keys])
    return pa.Table.from_pydict(
        {"key": keys, "shingles": [row.tolist() for row in shingles.rows()]}, schema=TEST_SHINGLES
    )


def _read(path: Path, schema: pa.Schema) -> pa.Table:
    try:
        table = pq.read_table(path)
        if not table.schema.equals(schema):
            raise ValueError("other columns than this version writes")
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DatasetError(
            f"{path} can't be read ({error}): delete the dataset's folder and build again.", path=str(path)
        ) from error
    return table


def read_rows(path: Path) -> pa.Table:
    """rows.parquet of a dataset folder."""
    return _read(path / "rows.parquet", ROWS)


def read_test_shingles(source: pa.Table | Path) -> SideRows:
    """The test side of a certificate."""
    table = _read(source, TEST_SHINGLES) if isinstance(source, Path) else source
    keys = table.column("key").to_pylist()
    rows = [np.array(row, dtype=np.uint64) for row in table.column("shingles").to_pylist()]
    return SideRows([f"test:{key[:16]}" for key in keys], keys, from_rows(rows))


def side_of(table: pa.Table, split: str | None = None) -> SideRows:
    """One side of a certificate out of rows.parquet, in its order."""
    columns = table.select(["row_id", "split", "question", "cluster_id"]).to_pylist()
    rows = [row for row in columns if split is None or row["split"] == split]
    questions = [row["question"] for row in rows]
    return SideRows(
        [row["row_id"] for row in rows],
        [question_key(question) for question in questions],
        shingle(questions),
        [row["cluster_id"] for row in rows],
    )


def check_forms(path: Path, table: pa.Table) -> str | None:
    """Why the JSON Lines files do not follow from rows.parquet, or None where they do."""
    for split in ("train", "holdout"):
        rows = [row for row in table.to_pylist() if row["split"] == split]
        plain = [orjson.loads(line) for line in (path / f"{split}.jsonl").read_bytes().splitlines()]
        chat = [orjson.loads(line) for line in (path / f"{split}.chat.jsonl").read_bytes().splitlines()]
        if not len(rows) == len(plain) == len(chat):
            return f"its forms have different numbers of {split} rows"
        for row, one, talk in zip(rows, plain, chat, strict=True):
            same = (
                sha256_text(one["prompt"]) == row["prompt_sha256"]
                and one["completion"] == row["answer"]
                and talk["prompt"][-1]["content"] == one["prompt"]
                and talk["completion"] == [{"role": "assistant", "content": one["completion"]}]
            )
            if not same:
                return f"row {row['row_id']} differs between its forms"
    return None
