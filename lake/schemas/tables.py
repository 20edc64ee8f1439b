"""Arrow schemas of the Delta tables of the lake, and their versions. Evolution only adds nullable columns.

Every table is partitioned by `date` (UTC, `YYYY-MM-DD`), so a day can be read, compacted or erased alone. To add
a column: append a nullable field to its schema and name it in `ADDED` under the table's next version. A table
carries the version of the program that wrote to it last in the property `mulle.schemaVersion`; a reader takes
columns that a table lacks as null, and leaves out those that it does not know.
"""

from __future__ import annotations

import pyarrow as pa

TIMESTAMP = pa.timestamp("us", tz="UTC")

RETRIEVED_ITEM = pa.struct(
    [
        pa.field("rank", pa.int32()),
        pa.field("score", pa.float64()),
        pa.field("id", pa.string()),
        pa.field("name", pa.string()),
        pa.field("url", pa.string()),
        pa.field("description", pa.string()),
        pa.field("chunk_text", pa.string()),
        pa.field("tags", pa.list_(pa.string())),
        pa.field("category", pa.string()),
        pa.field(
            "scores",
            pa.struct(
                [
                    pa.field("dense", pa.float64()),
                    pa.field("lexical", pa.float64()),
                    pa.field("rerank", pa.float64()),
                ]
            ),
        ),
    ]
)

LATENCY = pa.struct(
    [pa.field(name, pa.float64()) for name in ("embed", "retrieve", "rerank", "prompt", "llm", "total")]
)

REQUESTS = pa.schema(
    [
        pa.field("date", pa.string(), nullable=False),
        pa.field("request_id", pa.string(), nullable=False),
        pa.field("timestamp", TIMESTAMP, nullable=False),
        pa.field("user_query", pa.string(), nullable=False),
        pa.field("lang", pa.string()),
        pa.field("top_k", pa.int32()),
        pa.field("session_id", pa.string()),
        pa.field("key_id", pa.string()),
        pa.field("retrieved_items", pa.list_(RETRIEVED_ITEM)),
        pa.field("llm_response_content", pa.string()),
        pa.field("outcome", pa.string(), nullable=False),
        pa.field("error", pa.string()),
        pa.field("backend", pa.string()),
        pa.field("model", pa.string()),
        pa.field("adapter", pa.string()),
        pa.field("finish_reason", pa.string()),
        pa.field("prompt_tokens", pa.int64()),
        pa.field("completion_tokens", pa.int64()),
        pa.field("latency_ms", LATENCY),
        pa.field("prompt_version", pa.string()),
        pa.field("prompt_sha256", pa.string()),
        pa.field("template_sha256", pa.string()),
        pa.field("index_version", pa.string()),
        pa.field("embedder", pa.string()),
        pa.field("segment", pa.string(), nullable=False),  # where the journal holds it
        pa.field("seq", pa.int64(), nullable=False),
        pa.field("record_version", pa.int32(), nullable=False),
        # record version 2; null in rows of version 1
        pa.field("stored", pa.bool_()),  # false: the caller opted out, the row has no text
        pa.field("operation", pa.string()),  # search | chat
        pa.field("streamed", pa.bool_()),
        pa.field("trace_id", pa.string()),
        pa.field("client_request_id", pa.string()),
        pa.field("categories", pa.list_(pa.string())),
        pa.field("filter_tags", pa.list_(pa.string())),
        pa.field("fallback", pa.bool_()),
        pa.field("degraded", pa.bool_()),
        pa.field("first_token_ms", pa.float64()),
    ]
)

REVIEWS = pa.schema(
    [
        pa.field("date", pa.string(), nullable=False),
        pa.field("review_id", pa.string(), nullable=False),
        pa.field("timestamp", TIMESTAMP, nullable=False),
        pa.field("request_id", pa.string()),
        pa.field("question", pa.string(), nullable=False),
        pa.field("answer", pa.string(), nullable=False),
        pa.field("reviewer", pa.string()),
        pa.field("lang", pa.string()),
        pa.field("tools", pa.list_(pa.string())),
        pa.field("also", pa.list_(pa.string())),
        pa.field("segment", pa.string(), nullable=False),
        pa.field("seq", pa.int64(), nullable=False),
        pa.field("record_version", pa.int32(), nullable=False),
        # record version 3: what the review corrects, and who had answered so
        pa.field("original_answer", pa.string()),
        pa.field("original_model", pa.string()),
        pa.field("original_adapter", pa.string()),
        pa.field("original_request_id", pa.string()),
        pa.field("source", pa.string()),  # api, page, jsonl, csv, argilla, label-studio
    ]
)

FEEDBACK = pa.schema(
    [
        pa.field("date", pa.string(), nullable=False),
        pa.field("feedback_id", pa.string(), nullable=False),
        pa.field("timestamp", TIMESTAMP, nullable=False),
        pa.field("request_id", pa.string(), nullable=False),
        pa.field("thumb", pa.string()),
        pa.field("score", pa.int32()),
        pa.field("comment", pa.string()),
        pa.field("corrected_answer", pa.string()),
        pa.field("segment", pa.string(), nullable=False),
        pa.field("seq", pa.int64(), nullable=False),
        pa.field("record_version", pa.int32(), nullable=False),
        pa.field("key_id", pa.string()),  # record version 2
    ]
)

SYNTHETIC = pa.schema(
    [
        pa.field("date", pa.string(), nullable=False),
        pa.field("synthetic_id", pa.string(), nullable=False),
        pa.field("timestamp", TIMESTAMP, nullable=False),
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("tool_id", pa.string(), nullable=False),  # empty where no tool suits
        pa.field("question", pa.string(), nullable=False),
        pa.field("answer", pa.string(), nullable=False),
        pa.field("lang", pa.string()),
        pa.field("source", pa.string(), nullable=False),  # llm:<model>
        pa.field("retrieved_items", pa.list_(RETRIEVED_ITEM)),
        # schema version 2
        pa.field("kind", pa.string()),  # need, howto, typo, compare, no_answer
        pa.field("judge", pa.string()),  # model that found it right; null: nobody was asked
    ]
)

REJECTS = pa.schema(
    [
        pa.field("date", pa.string(), nullable=False),
        pa.field("timestamp", TIMESTAMP, nullable=False),
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),  # ingest | build | synthesize | teach
        pa.field("reason", pa.string(), nullable=False),
        pa.field("source_id", pa.string()),
        pa.field("sample", pa.string()),  # at most 500 characters
    ]
)

EVALUATIONS = pa.schema(
    [
        pa.field("date", pa.string(), nullable=False),
        pa.field("timestamp", TIMESTAMP, nullable=False),
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("backend", pa.string(), nullable=False),
        pa.field("arm", pa.string(), nullable=False),  # base | tuned
        pa.field("adapter_id", pa.string()),
        pa.field("question_id", pa.string(), nullable=False),
        pa.field("question", pa.string(), nullable=False),
        pa.field("lang", pa.string()),
        pa.field("golden", pa.string()),
        pa.field("answer", pa.string()),
        pa.field("latency_ms", pa.float64()),
        pa.field("completion_tokens", pa.int64()),
        pa.field("scores", pa.string()),  # JSON object of the per-item metrics
    ]
)

RUNS = pa.schema(
    [
        pa.field("date", pa.string(), nullable=False),
        pa.field("timestamp", TIMESTAMP, nullable=False),
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("seconds", pa.float64(), nullable=False),
        pa.field("status", pa.string(), nullable=False),  # ok | failed
        pa.field("report", pa.string()),  # JSON object
    ]
)

DATASETS = pa.schema(  # one row a dataset version; written by lake/lineage.py
    [
        pa.field("date", pa.string(), nullable=False),
        pa.field("timestamp", TIMESTAMP, nullable=False),
        pa.field("version", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("manifest_sha256", pa.string(), nullable=False),
        pa.field("run_id", pa.string()),
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("train", pa.int64(), nullable=False),
        pa.field("holdout", pa.int64(), nullable=False),
        pa.field("rejected", pa.int64(), nullable=False),
        pa.field("counts", pa.string(), nullable=False),  # JSON object, all counts of the manifest
        pa.field("lake_versions", pa.string(), nullable=False),  # JSON object, table: version
        pa.field("seed", pa.int64(), nullable=False),
    ]
)

ERASURES = pa.schema(  # one row a state that an erasure reached; the newest of an `erasure_id` holds
    [
        pa.field("date", pa.string(), nullable=False),
        pa.field("timestamp", TIMESTAMP, nullable=False),
        pa.field("erasure_id", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),  # request | key | session
        pa.field("subject_sha256", pa.string(), nullable=False),  # of the id asked for, which may be personal
        pa.field("ids_sha256", pa.list_(pa.string())),  # hex, of each id that is hidden
        pa.field("state", pa.string(), nullable=False),  # hidden | removed | proven
        pa.field("window_days", pa.float64(), nullable=False),
        pa.field("report", pa.string()),  # JSON object
    ]
)

RETRIEVAL_FAILURES = pa.schema(  # the right tool was not among the retrieved ones; for the retriever, not for training
    [
        pa.field("date", pa.string(), nullable=False),
        pa.field("timestamp", TIMESTAMP, nullable=False),
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("request_id", pa.string(), nullable=False),
        pa.field("question", pa.string(), nullable=False),
        pa.field("lang", pa.string()),
        pa.field("right_tools", pa.list_(pa.string()), nullable=False),  # catalogue ids
        pa.field(
            "hard_negatives",  # what was retrieved instead, by rank
            pa.list_(
                pa.struct(
                    [
                        pa.field("id", pa.string()),
                        pa.field("rank", pa.int32()),
                        pa.field("score", pa.float64()),
                    ]
                )
            ),
            nullable=False,
        ),
        pa.field("label_source", pa.string(), nullable=False),  # who named the right tool: golden | correction | ...
        pa.field("index_version", pa.string()),
        pa.field("embedder", pa.string()),
    ]
)

TEACHER_LABELS = pa.schema(
    [
        pa.field("date", pa.string(), nullable=False),
        pa.field("timestamp", TIMESTAMP, nullable=False),
        pa.field("label_id", pa.string(), nullable=False),
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("request_id", pa.string(), nullable=False),
        pa.field("question", pa.string(), nullable=False),
        pa.field("answer", pa.string(), nullable=False),
        pa.field("lang", pa.string()),
        pa.field("tools", pa.list_(pa.string())),
        pa.field("model", pa.string(), nullable=False),
        pa.field("finish_reason", pa.string()),
        pa.field("prompt_sha256", pa.string()),
        pa.field("prompt_tokens", pa.int64()),
        pa.field("completion_tokens", pa.int64()),
        pa.field("cost", pa.float64()),  # in the currency of the price settings
        pa.field("latency_ms", pa.float64()),
    ]
)

TABLES: dict[str, pa.Schema] = {
    "requests": REQUESTS,
    "reviews": REVIEWS,
    "feedback": FEEDBACK,
    "synthetic": SYNTHETIC,
    "rejects": REJECTS,
    "evaluations": EVALUATIONS,
    "runs": RUNS,
    "datasets": DATASETS,
    "erasures": ERASURES,
    "retrieval_failures": RETRIEVAL_FAILURES,
    "teacher_labels": TEACHER_LABELS,
}

# What each schema version after the first added: table: {version: columns}.
ADDED: dict[str, dict[int, tuple[str, ...]]] = {
    "requests": {
        2: (
            "stored", "operation", "streamed", "trace_id", "client_request_id",
            "categories", "filter_tags", "fallback", "degraded", "first_token_ms",
        ),
    },
    "feedback": {2: ("key_id",)},
    "synthetic": {2: ("kind", "judge")},
    "reviews": {2: ("original_answer", "original_model", "original_adapter", "original_request_id", "source")},
}  # fmt: skip

# Text that people wrote. No statistics of it go into a table's log: they would outlive the erasure of the row.
FREE_TEXT = frozenset(
    {
        "user_query", "llm_response_content", "error", "comment", "corrected_answer", "question", "answer",
        "original_answer", "golden", "sample", "report", "session_id", "client_request_id",
    }
)  # fmt: skip


def schema_version(name: str) -> int:
    """The version of the table's schema that this program writes; 1 is the first."""
    return max(ADDED.get(name, {}), default=1)


def schema_at(name: str, version: int) -> pa.Schema:
    """The table's schema as an earlier version had it."""
    later = {column for added, columns in ADDED.get(name, {}).items() if added > version for column in columns}
    return pa.schema([field for field in TABLES[name] if field.name not in later])


def statistics_columns(name: str) -> list[str]:
    """Columns whose least and greatest values stand in the table's log: neither free text nor lists."""
    return [
        field.name
        for field in TABLES[name]
        if field.name not in FREE_TEXT and field.name != "date" and not pa.types.is_nested(field.type)
    ]
