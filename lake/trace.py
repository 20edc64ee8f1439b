"""The way of a request through the wheel, both ways: answer → adapter → dataset → rows → their requests, and request
→ rows → datasets → adapters.

Reads the journal, the tables, `data/datasets/` and the registry's log; writes nothing. Pure data out, for pages and
for `python -m flows.trace`. Invariant: what was erased or withdrawn is said to be so, and shows no ids.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from lake.errors import AdapterError, DatasetError, UnknownSubjectError
from lake.lineage_files import AdapterRef, RowRef, adapters_of, all_adapters, dataset_folders, rejects_of, rows_of
from lake.lookup import FoundRequest, LookupPaths, find_request
from lake.withdrawn import is_withdrawn

SOURCES_SHOWN = 20  # of a dataset's source requests, unless more are asked for


class TracePaths(LookupPaths, Protocol):
    """What a trace needs of `LakeSettings` beside what a look-up does."""

    @property
    def datasets_dir(self) -> Path: ...

    @property
    def models_dir(self) -> Path: ...


@dataclass(frozen=True, slots=True)
class DatasetTrace:
    """A dataset version: how many rows, from how many sources (the first of them), and which adapters it made."""

    version: str
    state: str  # kept | withdrawn | gone
    rows: int = 0
    sources: int = 0
    source_ids: tuple[str, ...] = ()
    adapters: tuple[AdapterRef, ...] = ()


@dataclass(frozen=True, slots=True)
class AdapterTrace:
    """An adapter, and the dataset that it was trained on."""

    adapter: AdapterRef
    dataset: DatasetTrace


@dataclass(frozen=True, slots=True)
class RequestTrace:
    """A request, who answered it, and what became of it."""

    request_id: str
    where: tuple[str, ...]  # journal, lake
    stored: bool
    outcome: str
    backend: str
    model: str
    answered_by: AdapterTrace | None  # None: the base, or no LLM
    rows: tuple[RowRef, ...] = ()
    rejected_in: tuple[str, ...] = ()  # dataset versions that left it out
    datasets: tuple[str, ...] = ()
    adapters: tuple[AdapterRef, ...] = ()  # trained on one of its rows
    feedback: int = 0


@dataclass(frozen=True, slots=True)
class RowTrace:
    """A dataset row, wherever it stands, with the adapters trained on those versions."""

    row_id: str
    rows: tuple[RowRef, ...] = ()
    adapters: tuple[AdapterRef, ...] = ()
    source_ids: tuple[str, ...] = field(default=())


Trace = RequestTrace | RowTrace | DatasetTrace | AdapterTrace


def trace_request(paths: TracePaths, request_id: str, sources_shown: int = SOURCES_SHOWN) -> RequestTrace:
    """Both ways from a request. Raises `UnknownSubjectError` where it is not known (or was erased), `InputError` for
    text that is no id.
    """
    found = find_request(paths, request_id, with_feedback=True)
    if found is None:
        raise UnknownSubjectError(
            "There is no request with this id in the journal or the lake; it may have been erased."
        )
    ids = {request_id, *(str(one["feedback_id"]) for one in found.feedback)}
    rows: list[RowRef] = []
    rejected: list[str] = []
    for folder in dataset_folders(paths.datasets_dir):
        rows += rows_of(folder, ids)
        if rejects_of(folder, ids):
            rejected.append(folder.name)
    versions = _unique(row.dataset for row in rows)
    facts = _answer(found)
    return RequestTrace(
        request_id=request_id,
        where=tuple(found.where),
        stored=found.stored,
        outcome=str(facts.get("outcome") or "pending"),
        backend=str(facts.get("backend") or ""),
        model=str(facts.get("model") or ""),
        answered_by=_adapter(paths, facts.get("adapter"), sources_shown),
        rows=tuple(rows),
        rejected_in=tuple(rejected),
        datasets=tuple(versions),
        adapters=tuple(adapters_of(paths.models_dir, versions)),
        feedback=len(found.feedback),
    )


def trace_adapter(paths: TracePaths, adapter_id: str, sources_shown: int = SOURCES_SHOWN) -> AdapterTrace:
    """An adapter's dataset and its sources. Raises `AdapterError` where the registry does not know it."""
    for one in all_adapters(paths.models_dir):
        if one.adapter_id == adapter_id:
            return AdapterTrace(one, _dataset(paths, one.dataset, sources_shown))
    raise AdapterError(f"No adapter {adapter_id!r} in the registry: see `python -m serving.registry list`.")


def trace_dataset(paths: TracePaths, version: str, sources_shown: int = SOURCES_SHOWN) -> DatasetTrace:
    """A dataset's sources and adapters. Raises `DatasetError` where no such version is or was here."""
    found = _dataset(paths, version, sources_shown)
    if found.state == "gone" and not found.adapters:
        raise DatasetError(f"There is no dataset {version!r} below {paths.datasets_dir}: see the folders there.")
    return found


def trace_row(paths: TracePaths, row_id: str) -> RowTrace:
    """Every version that has the row. Raises `DatasetError` where none does."""
    rows = [row for folder in dataset_folders(paths.datasets_dir) for row in rows_of(folder, row_id=row_id)]
    if not rows:
        raise DatasetError(f"No dataset below {paths.datasets_dir} has a row {row_id!r}.")
    sources = _unique(one for row in rows for one in row.source_ids)
    versions = _unique(row.dataset for row in rows)
    return RowTrace(row_id, tuple(rows), tuple(adapters_of(paths.models_dir, versions)), tuple(sources))


def _answer(found: FoundRequest) -> dict[str, Any]:
    return found.response or found.row or {}


def _adapter(paths: TracePaths, adapter_id: object, sources_shown: int) -> AdapterTrace | None:
    if not isinstance(adapter_id, str) or not adapter_id:
        return None
    try:
        return trace_adapter(paths, adapter_id, sources_shown)
    except AdapterError:  # served from another registry, or by another name
        return AdapterTrace(AdapterRef(adapter_id, "unknown", "", ""), DatasetTrace("", "gone"))


def _dataset(paths: TracePaths, version: str, sources_shown: int) -> DatasetTrace:
    folder = paths.datasets_dir / version
    adapters = tuple(adapters_of(paths.models_dir, [version])) if version else ()
    if not version or Path(version).name != version:
        return DatasetTrace(version, "gone", adapters=adapters)
    if is_withdrawn(folder):  # its source ids may be erased ones
        return DatasetTrace(version, "withdrawn", adapters=adapters)
    if not folder.is_dir():
        return DatasetTrace(version, "gone", adapters=adapters)
    rows = 0
    sources: dict[str, None] = {}
    for row in rows_of(folder):
        rows += row.file == "rows.parquet"
        sources.update(dict.fromkeys(row.source_ids))
    return DatasetTrace(version, "kept", rows, len(sources), tuple(list(sources)[:sources_shown]), adapters)


def _unique(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


def to_dict(trace: Trace) -> dict[str, Any]:
    """For JSON."""
    return asdict(trace)


def tree(trace: Trace) -> str:
    """For people: one line a step, indented by its distance from where the trace began."""
    match trace:
        case RequestTrace():
            lines = _request_lines(trace)
        case RowTrace():
            lines = [f"row {trace.row_id}", *_row_lines(trace.rows, "  "), "  from " + _ids(trace.source_ids)]
            lines += _adapter_lines(trace.adapters, "  → ")
        case DatasetTrace():
            lines = _dataset_lines(trace, "")
            lines += _adapter_lines(trace.adapters, "  → ")
        case AdapterTrace():
            lines = _adapter_lines((trace.adapter,), "") + _dataset_lines(trace.dataset, "  ← ")
    return "\n".join(lines)


def _request_lines(trace: RequestTrace) -> list[str]:
    lines = [
        f"request {trace.request_id} ({', '.join(trace.where)}; {trace.outcome}"
        f"{'' if trace.stored else '; opted out, never trained on'})"
    ]
    if trace.answered_by is None:
        lines.append(f"  ← answered by {trace.model or 'no model'} ({trace.backend or 'no backend'}), no adapter")
    else:
        lines += _adapter_lines((trace.answered_by.adapter,), "  ← answered by ")
        lines += _dataset_lines(trace.answered_by.dataset, "    ← ")
    lines += _row_lines(trace.rows, "  → ")
    lines += [f"  → left out of dataset {version}" for version in trace.rejected_in]
    if not trace.rows and not trace.rejected_in:
        lines.append("  → in no dataset")
    lines += _adapter_lines(trace.adapters, "    → ")
    return lines


def _row_lines(rows: tuple[RowRef, ...], before: str) -> list[str]:
    return [
        f"{before}row {row.row_id} of dataset {row.dataset} ({row.file}, {row.split}, {row.label_source})"
        for row in rows
    ]


def _adapter_lines(adapters: tuple[AdapterRef, ...], before: str) -> list[str]:
    return [f"{before}adapter {one.adapter_id} ({one.state}, dataset {one.dataset or '?'})" for one in adapters]


def _dataset_lines(trace: DatasetTrace, before: str) -> list[str]:
    if trace.state != "kept":
        return [f"{before}dataset {trace.version or '?'} ({trace.state})"]
    more = f" and {trace.sources - len(trace.source_ids)} more" if trace.sources > len(trace.source_ids) else ""
    return [
        f"{before}dataset {trace.version} ({trace.rows} rows of {trace.sources} sources)",
        f"{' ' * len(before)}  ← {_ids(trace.source_ids)}{more}",
    ]


def _ids(ids: tuple[str, ...]) -> str:
    return ", ".join(ids) or "nothing"
