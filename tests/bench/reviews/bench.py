"""How long the review queue takes over a large lake, and how much memory: `make bench NAME=reviews`.

Makes a lake of `--rows` requests (seeded; three retrieved tools each, about 0.49 of the questions are distinct, 5 %
have feedback, 1 % are reviewed) and reads the queue in a process of its own, once a round.
"""

from __future__ import annotations

import argparse
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from lake.review_queue import open_items
from lake.rules.stale import Catalog
from lake.schemas.rows import Tool
from lake.schemas.tables import TABLES
from lake.tables import append
from tests.bench.run import ROOT, Figure

START = datetime(2026, 1, 1, tzinfo=UTC)
PIECE = 50_000
WORDS = [
    "화상", "회의", "녹화", "메신저", "디자인", "편집", "무료", "일정", "공유",
    "그래프", "번역", "백업", "노트", "차트", "코드", "리뷰", "서버", "결제",
    "재고", "영수증", "가계부", "사진", "바코드", "브라우저", "여럿이", "함께", "쓰는",
    "도구", "추천", "벡터", "로고", "인쇄", "리눅스", "자동", "정리", "검색",
    "문서", "위키", "표", "계산", "자막", "음성", "인식", "요약", "메일",
    "고객", "문의", "챗봇", "배포", "모니터링", "알림", "로그",
]  # fmt: skip
TOOLS = [Tool(f"t{n}", f"도구{n}", "설명", f"https://t{n}.example") for n in range(900)]


def make_lake(lake_dir: Path, rows: int) -> None:
    """Write the tables; the same for the same `rows`."""
    chance = random.Random(1)
    pool = [" ".join(chance.choices(WORDS, k=chance.randint(4, 9))) for _ in range(max(1, rows * 6 // 10))]
    for first in range(0, rows, PIECE):
        frame = pl.DataFrame([request(n, chance, pool) for n in range(first, min(rows, first + PIECE))])
        append(lake_dir, "requests", full(frame, "requests"))
    said = [
        {"feedback_id": f"f{n}", "request_id": f"q{chance.randrange(rows)}", "thumb": chance.choice(["up", "down"])}
        for n in range(rows // 20)
    ]
    append(lake_dir, "feedback", full(pl.DataFrame(said), "feedback"))
    done = [
        {
            "review_id": f"r{n}",
            "question": pool[n],
            "answer": "추천: 도구0\n이유: 좋습니다.",
            "tools": ["t0"],
            "reviewer": "k",
        }
        for n in range(len(pool) // 60)
    ]
    append(lake_dir, "reviews", full(pl.DataFrame(done), "reviews"))


def request(n: int, chance: random.Random, pool: Sequence[str]) -> dict[str, Any]:
    """One request with the fields that matter, some 900 bytes of text."""
    tools = chance.sample(TOOLS, 3)
    scores = sorted((chance.random() for _ in tools), reverse=True)
    items = [
        {
            "rank": rank, "score": score, "id": tool.id, "name": tool.name, "url": tool.url,
            "description": "설명 " * 20, "chunk_text": "본문 " * 40, "tags": ["a"], "category": "c",
        }
        for rank, (tool, score) in enumerate(zip(tools, scores, strict=True), start=1)
    ]  # fmt: skip
    answer = f"추천: {tools[0].name}\n이유: {n}번째 답입니다.\n링크: {tools[0].url}"
    return {
        "request_id": f"q{n}", "timestamp": START + timedelta(seconds=n), "user_query": chance.choice(pool),
        "lang": "ko", "retrieved_items": items, "llm_response_content": answer, "outcome": "answered", "stored": True,
    }  # fmt: skip


def full(frame: pl.DataFrame, table: str) -> Any:
    """The frame with every column of the table, in its types."""
    if "timestamp" not in frame.columns:
        frame = frame.with_columns(timestamp=pl.lit(START))
    frame = frame.with_columns(
        date=pl.col("timestamp").dt.strftime("%Y-%m-%d"), segment=pl.lit("w/1"), seq=pl.lit(0), record_version=pl.lit(3)
    )
    schema: dict[str, Any] = dict(pl.DataFrame(TABLES[table].empty_table()).schema)
    items = frame.schema.get("retrieved_items")
    if items is not None:
        wanted = schema["retrieved_items"].inner.fields
        got = {field.name for field in items.inner.fields}  # type: ignore[union-attr]
        fields = [
            (pl.element().struct.field(one.name) if one.name in got else pl.lit(None)).cast(one.dtype).alias(one.name)
            for one in wanted
        ]
        frame = frame.with_columns(pl.col("retrieved_items").list.eval(pl.struct(fields)))
    return frame.select(
        (pl.col(name) if name in frame.columns else pl.lit(None)).cast(kind).alias(name)
        for name, kind in schema.items()
    ).to_arrow()


def measure(lake_dir: Path) -> tuple[float, float, float, int, int]:
    """Read the queue once: seconds, CPU seconds, peak MiB of this process; open items, questions."""
    started, before = time.perf_counter(), time.process_time()
    queue = open_items(lake_dir, catalog=Catalog.of(TOOLS))
    seconds, busy = time.perf_counter() - started, time.process_time() - before
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return seconds, busy, peak, queue.counts["open"], queue.counts["questions"]


def measured(lake_dir: Path) -> list[float]:
    """`measure` in a process of its own: its peak memory is not that of making the lake."""
    code = "import sys; from pathlib import Path; from tests.bench.reviews.bench import measure; "
    argv = [sys.executable, "-c", code + "print(*measure(Path(sys.argv[1])))", str(lake_dir)]
    return [float(word) for word in subprocess.check_output(argv, cwd=ROOT, text=True).split()]


def figures(rounds: int, arguments: Sequence[str]) -> Iterable[Figure]:
    """Seconds, CPU seconds and peak memory of `open_items`."""
    parser = argparse.ArgumentParser(prog="reviews")
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args(list(arguments)).rows
    with tempfile.TemporaryDirectory() as folder:
        make_lake(Path(folder), rows)
        found = [measured(Path(folder)) for _ in range(rounds)]
    against = f"{rows:,} requests, {found[0][4]:,.0f} questions, {found[0][3]:,.0f} items"
    yield Figure("review queue, whole", "s", [one[0] for one in found], against)
    yield Figure("review queue, CPU of all cores", "s", [one[1] for one in found], against)
    yield Figure("review queue, peak memory", "MiB", [one[2] for one in found], against, "<= 4096")
