"""Streams as the servers write them, cut anywhere: the same pieces, one answer, or a typed error."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lake.errors import BackendBadAnswer, BackendError
from serving.answers import ChatAnswer
from serving.chat_stream import ChatStream
from serving.sse import Event, EventReader, EventTooLong

LIMIT = 1 << 16


def chunk(text: str | None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {
        "id": "c-1", "object": "chat.completion.chunk", "model": "m",
        "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}], **more,
    }  # fmt: skip


def sse(*values: dict[str, Any] | str, end: str = "\n") -> bytes:
    lines = [value if isinstance(value, str) else f"data: {orjson.dumps(value).decode()}" for value in values]
    return "".join(f"{line}{end}{end}" for line in lines).encode()


USAGE = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}}
VLLM = sse(chunk(""), chunk("안녕"), chunk(" 🙂", "stop"), USAGE, "data: [DONE]")
# Recorded shapes: llama.cpp begins with null content, LM Studio sends an event name, Ollama puts usage beside the end.
LLAMACPP = sse(chunk(None), chunk("안녕"), chunk(" 🙂"), chunk(None, "stop"), USAGE, "data: [DONE]")
LMSTUDIO = sse(": ping", "event: chunk\ndata: " + orjson.dumps(chunk("안녕")).decode(), chunk(" 🙂", "stop"), USAGE,
               "data: [DONE]", end="\r\n")  # fmt: skip
OLLAMA = sse(chunk("안녕"), chunk(" 🙂"), chunk("", "stop", usage=USAGE["usage"]), "data: [DONE]")
NO_DONE = sse(chunk("안녕"), chunk(" 🙂", "stop"), USAGE)
NO_LAST_LINE = VLLM.rstrip(b"\n")
LONE_CR = VLLM.replace(b"\n", b"\r")
BOM = b"\xef\xbb\xbf" + VLLM
GOOD = [VLLM, LLAMACPP, LMSTUDIO, OLLAMA, NO_DONE, NO_LAST_LINE, LONE_CR, BOM]


def read(data: bytes, cuts: list[int] | None = None, limit: int = LIMIT) -> tuple[list[str], ChatAnswer | BackendError]:
    """(pieces, answer or error) of `data`, cut at the given places."""
    stream = ChatStream(limit)
    pieces: list[str] = []
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts or [])})
    try:
        for start, end in pairwise(edges):
            pieces.extend(stream.feed(data[start:end]))
        pieces.extend(stream.end())
    except BackendError as error:
        assert stream.text == "".join(pieces)
        return pieces, error
    return pieces, stream.answer()


@pytest.mark.parametrize("data", GOOD)
def test_servers_streams(data: bytes) -> None:
    assert read(data) == (["안녕", " 🙂"], ChatAnswer("안녕 🙂", "stop", 5, 2, "m"))
    assert read(data, list(range(len(data)))) == read(data)  # byte by byte


@given(st.sampled_from(GOOD), st.lists(st.integers(0, 2000), max_size=12))
def test_any_cut_gives_the_same_pieces(data: bytes, cuts: list[int]) -> None:
    assert read(data, cuts) == (["안녕", " 🙂"], ChatAnswer("안녕 🙂", "stop", 5, 2, "m"))


_FRAGMENTS = st.sampled_from([b"data: ", b"data:", b"\r", b"\n", b"\r\n", b"\n\n", b":", b"event: error", b"[DONE]",
                              b"error: {}", b"\xef\xbb\xbf", b"\xff", *VLLM.split(b"\n\n")])  # fmt: skip


@given(
    st.lists(_FRAGMENTS | st.binary(max_size=8), max_size=20).map(b"".join), st.lists(st.integers(0, 500), max_size=8)
)
@example(b"\xef\xbb", [1])
@example(b"data: x\r\n\r\n", [8])
@example(b"\r\ndata: [DONE]", [1])
def test_any_bytes_are_an_answer_or_a_typed_error(data: bytes, cuts: list[int]) -> None:
    whole, cut = read(data), read(data, cuts)
    assert whole[0] == cut[0]
    if isinstance(whole[1], BackendError):
        assert type(whole[1]) is type(cut[1]) and str(whole[1]) == str(cut[1]) and "\n" not in str(whole[1])
    else:
        assert whole == cut


@pytest.mark.parametrize(
    ("data", "kind", "says"),
    [
        (sse(chunk("반")), BackendBadAnswer, "middle"),
        (b"", BackendBadAnswer, "middle"),
        (sse(chunk("반"), {"error": {"message": "CUDA out of memory"}}), BackendError, "CUDA out of memory"),
        (sse(chunk("반"), 'event: error\ndata: {"error": {"message": "unloaded"}}'), BackendError, "unloaded"),
        (sse(chunk("반"), 'error: {"code": 500, "message": "slot is gone"}'), BackendError, "slot is gone"),
        (sse(chunk("반"), 'data: {"error": "unexpected EOF"}'), BackendError, "unexpected EOF"),
        (sse(chunk("반"), 'data: {"choices": [{"del'), BackendBadAnswer, "not JSON"),
        (sse(chunk("반"), "data: [1]"), BackendBadAnswer, "not a JSON object"),
        (sse(chunk("반"), 'data: {"choices": 5}'), BackendBadAnswer, "choices of a wrong type"),
        (sse(chunk("반"), 'data: {"choices": [5]}'), BackendBadAnswer, "a choice of a wrong type"),
        (sse(chunk("반"), 'data: {"choices": [{"delta": {"content": 5}}]}'), BackendBadAnswer, "content of a wrong"),
        (sse(chunk("반"), 'data: {"choices": [{"delta": {"content": "\\ud800"}}]}'), BackendBadAnswer, "not JSON"),
        (sse(chunk("반")) + b"data: " + b"x" * LIMIT, BackendBadAnswer, "longer than"),
        (sse(chunk("반")) + b"data: " + b"x" * LIMIT + b"\n\n", BackendBadAnswer, "longer than"),
        (sse(chunk("반")) + b"data: x\n" * LIMIT, BackendBadAnswer, "event is longer than"),
        (sse(chunk("반"), chunk("x" * 40_000), chunk("x" * 40_000)), BackendBadAnswer, "larger than"),
    ],
)  # fmt: skip
def test_bad_streams_keep_what_had_come(data: bytes, kind: type[BackendError], says: str) -> None:
    pieces, error = read(data)
    assert type(error) is kind and says in str(error), error
    assert pieces[:1] == (["반"] if data else [])


def test_what_is_not_text_is_left_out() -> None:
    other = {"choices": [{"index": 1, "delta": {"content": "second choice"}}]}
    no_delta = {"choices": [{"index": 0, "finish_reason": "length"}]}
    pieces, answer = read(sse(other, {"id": "alive"}, chunk("하나"), no_delta, "data: [DONE]", chunk("after the end")))
    assert pieces == ["하나"] and answer == ChatAnswer("하나", "length", None, None, "m")


def test_events_follow_the_standard() -> None:
    reader = EventReader(100)
    data = b"event: a\nid: 7\nretry: 5\ndata: one\ndata:two\n\n: comment\nevent: b\n\ndata\n\ndata: last"
    assert [*reader.feed(data), *reader.end()] == [
        Event("a", b"one\ntwo"), Event("message", b""), Event("message", b"last"),
    ]  # fmt: skip
    with pytest.raises(EventTooLong):
        list(EventReader(100).feed(b"x" * 101))


def test_a_long_line_in_small_pieces_costs_linear_time() -> None:
    """200,000 feeds: copying what waits at each of them would be 20 GB."""
    reader = EventReader(1 << 20)
    for _ in range(200_000):
        assert list(reader.feed(b"x")) == []
    assert list(reader.feed(b"\n\n")) == []
