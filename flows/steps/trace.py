"""Trace step: which of the four things is asked for, and its report (`lake/trace.py` holds the logic)."""

from __future__ import annotations

from lake.errors import InputError
from lake.settings import LakeSettings
from lake.trace import SOURCES_SHOWN, Trace, trace_adapter, trace_dataset, trace_request, trace_row


def run_trace(
    paths: LakeSettings,
    request_id: str | None = None,
    row: str | None = None,
    dataset: str | None = None,
    adapter: str | None = None,
    sources: int = SOURCES_SHOWN,
) -> Trace:
    """The trace of the one that is named; `sources`: how many source ids of a dataset are shown. Reads only.

    Raises `InputError` where it is not exactly one, and what `lake/trace.py` raises for what is not known.
    """
    given = [one for one in (request_id, row, dataset, adapter) if one]
    if len(given) != 1:
        raise InputError("Name one thing to trace: a request id, --row, --dataset or --adapter.")
    if request_id:
        return trace_request(paths, request_id, sources)
    if row:
        return trace_row(paths, row)
    if dataset:
        return trace_dataset(paths, dataset, sources)
    return trace_adapter(paths, adapter or "", sources)
