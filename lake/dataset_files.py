"""The files of a dataset version, the same bytes for the same rows: JSON Lines, Parquet, and reading back.

Rows pass through in parts (`CONTENT`, sorted by row id), never all at once; what a part is cut into changes no byte.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lake.errors import DatasetError
from lake.rules.certificate import SideRows
from lake.rules.render import RenderedRow, conversational, plain, preference
from lake.rules.shingles import from_rows, question_keys, shingle
from lake.schemas.rows import SPLITS
from lake.schemas.tables import RETRIEVED_ITEM
from lake.text import sha256_text

ROW_GROUP = 8_192  # rows
FORMS = ("jsonl", "chat.jsonl", "dpo.jsonl")

_FIRST = [
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
_ADDED = [  # schema 2; null where an earlier version wrote the file
    pa.field("category", pa.string()),
    pa.field("generation", pa.int64()),
    pa.field("repairs", pa.list_(pa.string())),
    pa.field("rejected", pa.string()),
]
ROWS_1 = pa.schema(_FIRST)
ROWS = pa.schema([*_FIRST, *_ADDED])
CONTENT = ROWS.append(pa.field("prompt", pa.string(), nullable=False))  # what the files are made of

TEST_SHINGLES = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),  # sha256 of the normalised question
        pa.field("shingles", pa.list_(pa.uint64()), nullable=False),
    ]
)


class HashedFile:
    """A file that is written from front to end, with its sha256 and size; `close` syncs it."""

    def __init__(self, path: Path) -> None:
        self._handle: BinaryIO = path.open("wb")
        self._sha256 = hashlib.sha256()
        self.size = 0

    def write(self, data: Any) -> int:
        """Append bytes (or a buffer of them)."""
        view = memoryview(data).cast("B")
        self._sha256.update(view)
        self.size += len(view)
        return self._handle.write(view)

    def facts(self) -> dict[str, Any]:
        """sha256 and bytes, as a manifest lists them."""
        return {"sha256": self._sha256.hexdigest(), "bytes": self.size}

    @property
    def handle(self) -> BinaryIO:
        return self._handle


class _ParquetSink:
    """What pyarrow needs of a file, over a `HashedFile`."""

    closed = False

    def __init__(self, file: HashedFile) -> None:
        self._file = file

    def write(self, data: Any) -> int:
        return self._file.write(data)

    def tell(self) -> int:
        return self._file.size

    def flush(self) -> None:
        """Nothing is held back here."""

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def close(self) -> None:
        """The file is closed by whoever opened it."""


def jsonl(values: Iterable[Any]) -> bytes:
    """One compact JSON value a line."""
    return b"".join(orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE) for value in values)


def to_parquet(table: pa.Table) -> bytes:
    """zstd Parquet; no time and no path goes in, so the same table has the same bytes."""
    sink = BytesIO()
    pq.write_table(table, sink, compression="zstd", compression_level=3)
    return sink.getvalue()


def content_row(one: RenderedRow) -> dict[str, Any]:
    """A row of `CONTENT`: what it is made of, where it came from, and its prompt."""
    return {
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
        "category": one.row.category,
        "generation": one.row.generation,
        "repairs": one.row.repairs,
        "rejected": one.row.rejected,
        "prompt": one.prompt.text,
    }


def content_table(rows: Iterable[RenderedRow]) -> pa.Table:
    """`CONTENT` of a handful of rows, sorted by row id."""
    ordered = sorted((content_row(one) for one in rows), key=lambda one: one["row_id"])
    return pa.Table.from_pylist(ordered, schema=CONTENT)


def in_groups(parts: Iterable[pa.Table], size: int = ROW_GROUP) -> Iterator[pa.Table]:
    """The same rows in tables of `size` (the last may be shorter), so that a file's bytes don't depend on the parts."""
    held: list[Any] = []
    count = 0
    for part in parts:
        rest: Any = part
        while len(rest):
            take = min(size - count, len(rest))
            held.append(rest.slice(0, take))
            rest = rest.slice(take)
            count += take
            if count == size:
                yield pa.concat_tables(held).combine_chunks()
                held, count = [], 0
    if held:
        yield pa.concat_tables(held).combine_chunks()


class RowFiles:
    """rows.parquet and the JSON Lines of each split, written part by part."""

    def __init__(self, files: dict[str, HashedFile]) -> None:
        """`files` must hold rows.parquet and, for each split, the three forms."""
        self._files = files
        sink: Any = pa.PythonFile(_ParquetSink(files["rows.parquet"]), mode="w")  # type: ignore[arg-type]
        self._parquet = pq.ParquetWriter(sink, ROWS, compression="zstd", compression_level=3)

    def write(self, part: pa.Table) -> None:
        """The next rows; one row group."""
        table: Any = part
        self._parquet.write_table(table.select(ROWS.names), row_group_size=ROW_GROUP)
        columns = table.select(["split", "prompt", "answer", "rejected"]).to_pylist()
        for split in SPLITS:
            rows = [row for row in columns if row["split"] == split]
            self._files[f"{split}.jsonl"].write(jsonl(plain(row["prompt"], row["answer"]) for row in rows))
            self._files[f"{split}.chat.jsonl"].write(
                jsonl(conversational(row["prompt"], row["answer"]) for row in rows)
            )
            pairs = [row for row in rows if row["rejected"] is not None]
            self._files[f"{split}.dpo.jsonl"].write(
                jsonl(preference(row["prompt"], row["answer"], row["rejected"]) for row in pairs)
            )

    def close(self) -> None:
        """Write the Parquet footer."""
        self._parquet.close()


def table_of_tests(questions: Sequence[str]) -> pa.Table:
    """test_shingles.parquet: hashes only, so that a dataset never carries the test questions themselves."""
    texts = dict(zip(question_keys(questions), questions, strict=True))
    keys = sorted(texts)
    shingles = shingle([texts[key] for key in keys])
    return pa.Table.from_pydict(
        {"key": keys, "shingles": [row.tolist() for row in shingles.rows()]}, schema=TEST_SHINGLES
    )


def _unreadable(path: Path, error: object) -> DatasetError:
    return DatasetError(f"{path} can't be read ({error}): delete the dataset's folder and build again.", path=str(path))


def read_rows(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """rows.parquet of a dataset folder (or some columns of it); columns that its version lacks are null."""
    file = path / "rows.parquet"
    try:
        have = pq.read_schema(file)
        if not (have.equals(ROWS) or have.equals(ROWS_1)):
            raise ValueError("other columns than this version writes")
        wanted = list(columns) if columns is not None else ROWS.names
        table = pq.read_table(file, columns=[name for name in wanted if name in have.names])
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _unreadable(file, error) from error
    for name in wanted:
        if name not in have.names:
            table = table.append_column(ROWS.field(name), pa.nulls(len(table), ROWS.field(name).type))
    return table.select(wanted)


def read_test_shingles(source: pa.Table | Path) -> SideRows:
    """The test side of a certificate."""
    if isinstance(source, Path):
        try:
            table = pq.read_table(source)
            if not table.schema.equals(TEST_SHINGLES):
                raise ValueError("other columns than this version writes")
        except (OSError, ValueError, pa.ArrowException) as error:
            raise _unreadable(source, error) from error
    else:
        table = source
    keys = table.column("key").to_pylist()
    rows = [np.array(row, dtype=np.uint64) for row in table.column("shingles").to_pylist()]
    return SideRows([f"test:{key[:16]}" for key in keys], keys, from_rows(rows))


SIDE_COLUMNS = ("row_id", "split", "question", "cluster_id")


def side_of(table: pa.Table, split: str | None = None) -> SideRows:
    """One side of a certificate out of `SIDE_COLUMNS` of rows.parquet, in its order."""
    some: Any = table
    rows = some if split is None else some.filter(pc.field("split") == split)
    questions = rows.column("question").to_pylist()
    return SideRows(
        rows.column("row_id").to_pylist(),
        question_keys(questions),
        shingle(questions),
        rows.column("cluster_id").to_pylist(),
    )


def check_forms(path: Path, schema: int) -> str | None:
    """Why the JSON Lines files do not follow from rows.parquet, or None where they do. Reads part by part."""
    names = FORMS if schema > 1 else FORMS[:2]
    lines = {(split, form): (path / f"{split}.{form}").open("rb") for split in SPLITS for form in names}
    try:
        return _check_forms(path, lines, schema)
    finally:
        for handle in lines.values():
            handle.close()


def _check_forms(path: Path, lines: Mapping[tuple[str, str], BinaryIO], schema: int) -> str | None:
    columns = ["row_id", "split", "answer", "prompt_sha256", *(["rejected"] if schema > 1 else [])]
    with pq.ParquetFile(path / "rows.parquet") as file:
        for batch in file.iter_batches(batch_size=ROW_GROUP, columns=columns):
            for row in batch.to_pylist():
                try:
                    if not _same(
                        row, {form: handle for (split, form), handle in lines.items() if split == row["split"]}
                    ):
                        return f"row {row['row_id']} differs between its forms"
                except (ValueError, KeyError, TypeError, IndexError):
                    return f"row {row['row_id']} is missing or unreadable in one of its forms"
    for (split, form), handle in lines.items():
        if handle.readline():
            return f"{split}.{form} has more rows than rows.parquet"
    return None


def _same(row: dict[str, Any], lines: Mapping[str, BinaryIO]) -> bool:
    one = orjson.loads(lines["jsonl"].readline())
    talk = orjson.loads(lines["chat.jsonl"].readline())
    same = (
        sha256_text(one["prompt"]) == row["prompt_sha256"]
        and one["completion"] == row["answer"]
        and talk == conversational(one["prompt"], row["answer"])
    )
    if row.get("rejected") is None:
        return same
    return same and orjson.loads(lines["dpo.jsonl"].readline()) == preference(
        one["prompt"], row["answer"], row["rejected"]
    )
