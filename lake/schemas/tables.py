"""Arrow schemas of the Delta tables below `data/lake/`. Evolution only adds nullable columns.

Every table is partitioned by `date` (UTC, `YYYY-MM-DD`), so a day can be read, compacted or erased alone.
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
        pa.field("tool_id", pa.string(), nullable=False),
        pa.field("question", pa.string(), nullable=False),
        pa.field("answer", pa.string(), nullable=False),
        pa.field("lang", pa.string()),
        pa.field("source", pa.string(), nullable=False),  # llm:<model>
        pa.field("retrieved_items", pa.list_(RETRIEVED_ITEM)),
    ]
)

REJECTS = pa.schema(
    [
        pa.field("date", pa.string(), nullable=False),
        pa.field("timestamp", TIMESTAMP, nullable=False),
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),  # ingest | build | synthesize
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

TABLES: dict[str, pa.Schema] = {
    "requests": REQUESTS,
    "reviews": REVIEWS,
    "feedback": FEEDBACK,
    "synthetic": SYNTHETIC,
    "rejects": REJECTS,
    "evaluations": EVALUATIONS,
    "runs": RUNS,
}
