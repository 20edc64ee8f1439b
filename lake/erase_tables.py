"""Rows of an erased subject in the Delta tables: found, and deleted in one commit a table.

Reads and writes the tables below `lake_dir`, local or on S3. What was journalled is deleted together with a count of
the frames it was (`erased`, in the same commit), so that the ledger closes; each table that ingest fills gets a commit
in any case, so that an ingest that decided before conflicts. `lake/erase_log.py` takes the files and the log. Safe to
kill and to repeat.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError

from lake.erase_search import Words
from lake.errors import CommitConflictError, ErasureError
from lake.evolution import HOOKS
from lake.location import LakeDir
from lake.marks import TABLE_KINDS, dropped_id
from lake.storage import make_durable
from lake.tables import WRITER, append, existing_table
from lake.text import sql_text

# Columns by which a row is of an erased id, the row's own id first.
ID_COLUMNS: dict[str, tuple[str, ...]] = {
    "requests": ("request_id",),
    "feedback": ("feedback_id", "request_id"),
    "reviews": ("review_id", "request_id", "original_request_id"),
    "teacher_labels": ("label_id", "request_id"),
    "synthetic": ("synthetic_id",),
    "retrieval_failures": ("request_id",),
    "rejects": ("source_id",),
    "evaluations": ("question_id",),
}
# Columns with words of people or models about one request.
TEXT_COLUMNS: dict[str, tuple[str, ...]] = {
    "requests": ("user_query", "llm_response_content", "session_id", "client_request_id"),
    "feedback": ("comment", "corrected_answer"),
    "reviews": ("question", "answer", "original_answer"),
    "teacher_labels": ("question", "answer"),
    "synthetic": ("question", "answer"),
    "retrieval_failures": ("question",),
    "rejects": ("sample",),
    "evaluations": ("question", "golden", "answer"),
}
QUESTION_COLUMNS = ("user_query", "question")
BLANK_REPORT = '{"erased": true}'
_TRIES = 50
_BACKOFF_S = 0.02


@dataclass(slots=True)
class TableReach:
    """What a table holds of the subject: rows, their own ids and texts, and the data files with their partition."""

    table: str
    version: int
    rows: int = 0
    ids: set[str] = field(default_factory=set[str])
    texts: set[str] = field(default_factory=set[str])
    questions: set[str] = field(default_factory=set[str])
    files: list[str] = field(default_factory=list[str])

    def to_dict(self) -> dict[str, Any]:
        """For reports: no ids, no texts."""
        dates = sorted({part.removeprefix("date=") for file in self.files for part in file.split("/")[:1]})
        return {"table": self.table, "version": self.version, "rows": self.rows, "dates": dates, "files": self.files}


def matches(columns: Sequence[str], ids: frozenset[str]) -> Any:
    """The rows that name one of `ids` in one of `columns`, as a filter of pyarrow."""
    wanted = pa.array(sorted(ids), pa.string())
    filters = [pc.field(column).isin(wanted) for column in columns]
    combined = filters[0]
    for one in filters[1:]:
        combined = combined | one
    return combined


def find_rows(lake_dir: LakeDir, name: str, wanted: Any) -> TableReach | None:
    """What the newest snapshot holds of a filter; None where there is no such table or no such row."""
    table = existing_table(lake_dir, name)
    if table is None:
        return None
    reach = TableReach(name, table.version())
    have = {column.name for column in table.schema().fields}
    columns = [column for column in (ID_COLUMNS[name][0], *TEXT_COLUMNS[name]) if column in have]
    dataset: Any = table.to_pyarrow_dataset()
    for fragment in dataset.get_fragments(filter=wanted):
        found = fragment.to_table(schema=dataset.schema, columns=columns, filter=wanted)
        if not found.num_rows:
            continue
        reach.rows += found.num_rows
        reach.files.append(fragment.path)
        reach.ids |= set(found.column(0).drop_null().to_pylist())
        for column, values in zip(columns[1:], found.columns[1:], strict=True):
            texts = {text for text in values.drop_null().to_pylist() if text}
            reach.texts |= texts
            reach.questions |= texts if column in QUESTION_COLUMNS else set()
    return reach if reach.rows else None


def reach_of(lake_dir: LakeDir, ids: frozenset[str]) -> list[TableReach]:
    """What each table holds of `ids`."""
    found = (find_rows(lake_dir, name, matches(columns, ids)) for name, columns in ID_COLUMNS.items())
    return [reach for reach in found if reach is not None]


def delete_rows(lake_dir: LakeDir, name: str, ids: frozenset[str], erasure_id: str) -> int:
    """Delete every row of `ids`; how many went. Raises `ErasureError` where others always commit first.

    Safe to retry: rows and their count in the ledger go in one commit.
    """
    for tries in range(_TRIES):
        table = existing_table(lake_dir, name)
        if table is None:
            return 0
        try:
            return _delete(lake_dir, table, name, ids, f"erasure:{erasure_id}:{len(ids)}")
        except (CommitFailedError, CommitConflictError):  # another process was first: look again
            time.sleep(random.uniform(0, _BACKOFF_S * min(tries + 1, 10)))
    raise ErasureError(f"The table {name} is written all the time: run it again when less is going on.")


def _delete(lake_dir: LakeDir, table: DeltaTable, name: str, ids: frozenset[str], app_id: str) -> int:
    journalled = name in TABLE_KINDS
    have = {column.name for column in table.schema().fields}
    wanted = matches([column for column in ID_COLUMNS[name] if column in have], ids)
    columns = ["date", *(["segment"] if journalled else []), *(["backend"] if name == "requests" else [])]
    dataset: Any = table.to_pyarrow_dataset()
    found = pl.DataFrame(dataset.to_table(columns=columns, filter=wanted))
    if found.is_empty():
        if journalled and table.transaction_version(app_id) is None:
            append(lake_dir, name, [], table=table, txns={app_id: 1})
        return 0
    txns = {app_id: 1}
    if journalled:
        frames = Counter[str]()
        for segment, second in found.select("segment", _has_second(name)).iter_rows():
            frames[segment] += 1 + second
        for segment, count in frames.items():
            counter = dropped_id("erased", segment)
            txns[counter] = (table.transaction_version(counter) or 0) + count
    days = sorted(found["date"].unique())
    kept = dataset.scanner(filter=pc.field("date").isin(pa.array(days)) & ~wanted).to_reader()
    replace_days(lake_dir, name, table, days, kept, txns)
    return len(found)


def _has_second(name: str) -> pl.Expr:
    """Whether a row is two frames: a request whose response was ingested with it (as `lake/ledger.py` counts)."""
    return pl.col("backend").is_not_null() if name == "requests" else pl.lit(False)


def replace_days(
    lake_dir: LakeDir, name: str, table: DeltaTable, days: Sequence[str], rows: Any, txns: Mapping[str, int]
) -> None:
    """Put `rows` in the place of whole partitions, in one commit on this snapshot. Raises `CommitFailedError`.

    delta-rs's own DELETE and UPDATE are not used: their predicates put the ids into the log, and they write texts as
    string views, which pyarrow then can't compare with texts (deltalake 1.6.6, pyarrow 26).
    """
    write_deltalake(
        table,
        rows,
        mode="overwrite",
        predicate=f"date IN ({', '.join(sql_text(day) for day in days)})",
        writer_properties=WRITER,
        commit_properties=CommitProperties(
            max_commit_retries=0,
            app_transactions=[Transaction(app, version) for app, version in txns.items()] or None,
        ),
        post_commithook_properties=HOOKS,
    )
    make_durable(lake_dir / name, table.version())


def shared_words(lake_dir: LakeDir, words: Words) -> set[str]:
    """Those of the words that live rows hold too: somebody else said the same, so they prove nothing."""
    shared: set[str] = set()
    for name, columns in TEXT_COLUMNS.items():
        for texts in text_columns(lake_dir, name, columns):
            shared |= words.among(texts)
    return shared


def text_columns(lake_dir: LakeDir, name: str, columns: Sequence[str]) -> Iterator[pl.Series]:
    """The texts of a table's live rows, in batches."""
    table = existing_table(lake_dir, name)
    if table is None:
        return
    have = {column.name for column in table.schema().fields}
    wanted = [column for column in columns if column in have]
    dataset: Any = table.to_pyarrow_dataset()
    for batch in dataset.to_batches(columns=wanted, batch_size=65_536):
        for column in batch.columns:
            yield pl.Series(column.cast(pa.string()))


def redact_reports(lake_dir: LakeDir, words: Words) -> int:
    """Blank the reports of runs that hold a word; how many. Raises `CommitFailedError` on a lost race: run it again."""
    table = existing_table(lake_dir, "runs")
    if table is None or not words:
        return 0
    dataset: Any = table.to_pyarrow_dataset()
    days: set[str] = set()
    for batch in dataset.to_batches(columns=["date", "report"]):
        days |= {row["date"] for row in batch.to_pylist() if _holds(row["report"], words)}
    if not days:
        return 0
    rows: Any = dataset.to_table(filter=pc.field("date").isin(pa.array(sorted(days))))
    reports = rows.column("report").to_pylist()
    blanked = [BLANK_REPORT if _holds(report, words) else report for report in reports]
    position = rows.schema.get_field_index("report")
    rows = rows.set_column(position, rows.schema.field(position), pa.array(blanked, pa.string()))
    replace_days(lake_dir, "runs", table, sorted(days), rows, {})
    return sum(before != after for before, after in zip(reports, blanked, strict=True))


def _holds(report: str | None, words: Words) -> bool:
    return report is not None and words.is_in(report.encode())
