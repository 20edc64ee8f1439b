"""Promises 4 and 6, the parsers: whatever comes in is a well-formed value or one typed error, never anything else.

Hypothesis over everything that reads what others wrote: journal payloads (a row fits its Arrow schema), the index of a
worker (every frame is counted), answers and streams of LLM servers (events do not depend on how the bytes were cut),
the env file and the file of keys, `traceparent`. Inputs are near-valid: valid values with some parts replaced, dropped
or added.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
from hypothesis import HealthCheck, given, settings
from hypothesis import seed as with_seed
from hypothesis import strategies as st

from gateway.key_file import read_keys
from gateway.trace_context import incoming
from lake.errors import BackendError, IngestError, SetupError
from lake.journal.frames import Damage, encode, scan
from lake.journal.index import index_worker
from lake.journal.payloads import PayloadError, Row, feedback_row, request_row, response_fields, review_row
from lake.schemas.records import FrameKind
from lake.tables import to_arrow
from serving.answers import error_text, parse_chat, parse_models
from serving.chat_stream import ChatStream
from serving.envfile import parse_env, read_env_file, write_env_file
from tests.faults.harness import Progress, Tally, quiet
from tests.lake.ingest_kit import feedback, request, response, review

NAME, PROMISE, UNIT, FULL = "parsers", "4, 6", "inputs a parser", 5000
Property = Callable[[Path, st.DataObject], None]

_SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
    st.sampled_from(["", "answered", "up", "2026-03-01T12:00:00+09:00", "9999-12-31T23:59:59-12:00"]),
)  # fmt: skip
_JSON = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def near(draw: Callable[[st.SearchStrategy[Any]], Any], value: dict[str, Any]) -> dict[str, Any]:
    """`value` (JSON) with a few fields, also nested ones, replaced, dropped or added."""
    changed: dict[str, Any] = orjson.loads(orjson.dumps(value))
    for _ in range(draw(st.integers(0, 3))):
        target: Any = changed
        while True:
            inner = [child for child in _children(target) if isinstance(child, dict | list) and child]
            if not inner or draw(st.booleans()):
                break
            target = draw(st.sampled_from(inner))
        if isinstance(target, list):
            target[draw(st.integers(0, len(target) - 1))] = draw(_JSON)
            continue
        key = draw(st.sampled_from([*target, "other"]))
        if draw(st.booleans()):
            target.pop(key, None)
        else:
            target[key] = draw(_JSON)
    return changed


def _children(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else list(value)


def _payload_rows(_: Path, data: st.DataObject) -> None:
    """A payload is a row of its table or a `PayloadError`, and no field goes unseen."""
    ignored: Counter[str] = Counter()
    name, make, good = data.draw(
        st.sampled_from(
            [
                ("requests", request_row, request("id-1")),
                ("reviews", review_row, review(1)),
                ("feedback", feedback_row, feedback(1, "id-1")),
            ]
        )
    )
    try:
        row: Row = make(near(data.draw, good), "w/00000001.mjl", 1, ignored)
        if name == "requests":
            row |= response_fields(near(data.draw, response("id-1", 1)), ignored)
    except PayloadError as error:
        assert ": " in str(error)
        return
    except IngestError as error:
        assert "version" in str(error)
        return
    assert to_arrow(name, [row]).num_rows == 1


def _worker_index(scratch: Path, data: st.DataObject) -> None:
    """Every frame of a dead worker is counted once, whatever its payload and kind."""
    frames: list[bytes] = []
    for seq in range(1, data.draw(st.integers(1, 6)) + 1):
        rid = f"id-{data.draw(st.integers(1, 3))}"
        good = data.draw(st.sampled_from([request(rid), response(rid, 1), review(1), feedback(1, rid)]))
        payload = data.draw(st.one_of(st.just(orjson.dumps(near(data.draw, good))), st.binary(max_size=40)))
        kind = data.draw(st.sampled_from([0, 1, 2, 3, 4, 5, 7]))  # 6 is written by an erasure alone
        frames.append(encode(kind, seq, payload, data.draw(st.sampled_from([0, 0, 0, 1]))))
    blob = b"".join(frames)
    blob = blob[: len(blob) - data.draw(st.integers(0, 10))]
    worker = scratch / "w-1-BOOT"
    worker.mkdir(exist_ok=True)
    (worker / "00000001.mjl").write_bytes(blob)
    index = index_worker(worker)
    quiet_kinds = (FrameKind.SEGMENT_HEADER, FrameKind.WORKER_END)
    count = sum(isinstance(item, Damage) or item.kind not in quiet_kinds for item in scan(blob))
    held = sum(entry.frames for entries in index.entries.values() for entry in entries)
    assert index.journalled == count == held + len(index.bad) + index.duplicate_responses
    assert index.pending() is None and not index.alive


def _answers(_: Path, data: st.DataObject) -> None:
    """An LLM server's answer is a value or of the `BackendError` family; its error is one bounded line."""
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "x"}}
    good = {
        "model": "m",
        "choices": [choice],
        "usage": {"prompt_tokens": 1},
        "data": [{"id": "m"}],
        "error": {"message": "e"},
    }
    body = data.draw(st.one_of(st.just(orjson.dumps(near(data.draw, good))), st.binary(max_size=60)))
    for parse in (parse_chat, parse_models):
        try:
            parse(body)
        except BackendError as error:
            assert "\n" not in str(error)
    said = error_text(body)
    assert len(said) <= 302 and said.isprintable()


def _streams(_: Path, data: st.DataObject) -> None:
    """Pieces and end of a stream do not depend on how its bytes were cut."""
    chunk = {"model": "m", "choices": [{"index": 0, "delta": {"content": "물레"}, "finish_reason": None}]}
    end = data.draw(st.sampled_from(["\n", "\r\n", "\r"])).encode()
    blob = b""
    for _chunk in range(data.draw(st.integers(0, 4))):
        blob += b"data: " + orjson.dumps(near(data.draw, chunk)) + end + end
    blob += data.draw(st.sampled_from([b"", b"data: [DONE]" + end + end, b"data: [DO", b": ping" + end]))
    blob += data.draw(st.binary(max_size=20))
    size = data.draw(st.integers(1, max(1, len(blob))))
    assert _read(blob, len(blob) + 1) == _read(blob, size)


def _read(blob: bytes, size: int) -> tuple[str, str]:
    stream = ChatStream(1 << 16)
    try:
        for start in range(0, len(blob), size):
            list(stream.feed(blob[start : start + size]))
        list(stream.end())
    except BackendError as error:
        return stream.text, f"{type(error).__name__} {error}"
    return stream.text, repr(stream.answer())


def _env_file(scratch: Path, data: st.DataObject) -> None:
    """What can be written comes back as it was; anything else that a file may hold is a mapping or a `SetupError`."""
    path = scratch / "gateway.env"
    values = data.draw(
        st.dictionaries(st.from_regex(r"\A[A-Za-z_][A-Za-z0-9_]{0,8}\Z"), st.text(max_size=20), max_size=4)
    )
    try:
        write_env_file(path, values)
    except SetupError:
        pass
    else:
        assert read_env_file(path) == values
    try:
        parse_env(data.draw(st.text(max_size=60)))
    except SetupError as error:
        assert "line" in str(error)


def _key_file(scratch: Path, data: st.DataObject) -> None:
    """Keys or a `SetupError`: a damaged file opens nothing."""
    record = {
        "id": "abcdefgh", "name": "k", "scopes": ["search"], "sha256": "0" * 64, "created": "2026-03-01T12:00:00Z",
        "expires": None, "revoked": None, "rate_limit": "600/minute",
    }  # fmt: skip
    good = {"version": 1, "keys": [record]}
    path = scratch / "keys.json"
    path.write_bytes(data.draw(st.one_of(st.just(orjson.dumps(near(data.draw, good))), st.binary(max_size=40))))
    path.chmod(0o600)
    try:
        keys = read_keys(path)
    except SetupError as error:
        assert "\n" not in str(error)
    else:
        assert len({key.id for key in keys}) == len(keys)


def _traceparent(_: Path, data: st.DataObject) -> None:
    """Any header gives a valid context; a valid one is continued."""
    header = data.draw(
        st.one_of(
            st.none(), st.text(max_size=60), st.from_regex(r"\A[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\Z")
        )
    )
    context = incoming(header)
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]", context.traceparent)
    assert context.trace_id != "0" * 32 and context.span_id != context.parent_id
    if context.parent_id:
        assert header is not None and context.trace_id in header and context.parent_id in header


PROPERTIES: dict[str, Property] = {
    "payload rows": _payload_rows, "worker index": _worker_index, "answers": _answers, "streams": _streams,
    "env file": _env_file, "key file": _key_file, "traceparent": _traceparent,
}  # fmt: skip


def run(
    cycles: int, seed: int, scratch: Path, progress: Progress = quiet, properties: dict[str, Property] | None = None
) -> Tally:
    """`cycles` inputs for each property."""
    tally = Tally()
    chosen = properties or PROPERTIES
    for done, (name, prop) in enumerate(chosen.items()):
        with tempfile.TemporaryDirectory(dir=scratch) as folder:
            _hold(name, prop, Path(folder), cycles, seed, tally)
        progress(done + 1, len(chosen), tally)
    return tally


def _hold(name: str, prop: Property, folder: Path, cycles: int, seed: int, tally: Tally) -> None:
    @with_seed(seed)
    @settings(
        max_examples=cycles, deadline=None, database=None, print_blob=False, report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),  # type: ignore[arg-type]
    )  # fmt: skip
    @given(st.data())
    def test(data: st.DataObject) -> None:
        tally.counts[name] += 1
        prop(folder, data)

    try:
        test()
    except Exception as error:
        notes = " / ".join(getattr(error, "__notes__", []))
        tally.check(False, seed, f"{name}: {type(error).__name__} {error} {notes}"[:2000])
