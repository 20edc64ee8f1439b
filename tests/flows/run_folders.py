"""Run folders made by hand, in the shapes that the steps write. Read by test_report.py; holds no test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

EVIL = "<script>alert('도구')</script>"
EVIL_URL = 'https://example.org/"onmouseover="x'
QUESTIONS = (
    ("회의록을 팀이 같이 고치고 싶은데 한글 지원 잘 되는 도구 있나요?", "ko", "need"),
    ("디자인 시안 피그마 말고 뭐 써요", "ko", "compare"),
    ("우리 집 강아지 이름 지어 주는 도구", "ko", "no_answer"),
    ("Which tool keeps an offline kanban board?", "en", "need"),
)


def write(folder: Path, name: str, content: Any) -> None:
    """One JSON file of a run."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(orjson.dumps(content))


def stage(folder: Path, name: str, minute: int, seconds: float, report: Any, status: str = "ok") -> None:
    """A stage record, started `minute` minutes after nine."""
    started = f"2026-11-23T09:{minute:02d}:00+00:00"
    record = {"run_id": folder.name, "stage": name, "started": started, "seconds": seconds, "status": status}
    write(folder, f"{name}.json", {**record, "report": report})


def share(base: float, tuned: float, lo: float, hi: float, better: str = "up", n: int = 170) -> dict[str, Any]:
    """A metric of unit share; the arms' own intervals are ±0.07."""
    arms = {
        arm: {"value": value, "lo": max(0.0, value - 0.07), "hi": min(1.0, value + 0.07), "n": n}
        for arm, value in (("base", base), ("tuned", tuned))
    }
    return {"unit": "share", "better": better, **arms, "diff": {"value": tuned - base, "lo": lo, "hi": hi}}


def metrics(n: int = 170) -> dict[str, Any]:
    """All metrics of an evaluation: some better, one worse, one unclear."""
    return {
        "house_format": share(0.0, 0.982, 0.955, 1.0, n=n),
        "tool_right": share(0.153, 0.571, 0.335, 0.5, n=n),
        "tool_precision": share(0.2, 0.58, 0.3, 0.46, n=n),
        "tool_recall": share(0.41, 0.55, 0.05, 0.23, n=n),
        "tool_f1": share(0.27, 0.56, 0.2, 0.38, n=n),
        "named_only_retrieved": share(0.9, 1.0, 0.05, 0.15, n=n),
        "url_right": share(0.05, 0.94, 0.83, 0.95, n=n),
        "invented_url": share(0.12, 0.006, -0.17, -0.06, better="down", n=n),
        "language_match": share(0.97, 0.982, -0.02, 0.04, n=n),
        "no_tool_right": share(0.0, 0.25, 0.05, 0.45, n=20),
        "over_refusal": share(0.0, 0.04, 0.01, 0.08, better="down", n=150),
        "retrieved_right": share(0.81, 0.81, 0.0, 0.0, n=n),
        "chrf": {
            "unit": "score", "better": "up",
            "base": {"value": 11.2, "lo": 10.0, "hi": 12.5, "n": n},
            "tuned": {"value": 48.9, "lo": 46.0, "hi": 51.3, "n": n},
            "diff": {"value": 37.7, "lo": 35.0, "hi": 40.1},
        },
        "latency_ms": {
            "unit": "ms", "better": "down",
            "base": {"value": 5210.0, "lo": 5000.0, "hi": 5400.0, "n": n},
            "tuned": {"value": 3105.0, "lo": 2900.0, "hi": 3300.0, "n": n},
            "diff": {"value": -2105.0, "lo": -2400.0, "hi": -1800.0},
        },
    }  # fmt: skip


def item(number: int) -> dict[str, Any]:
    """An evaluated question; every third is improved, every seventh made worse, one tool has markup in its name."""
    question, lang, kind = QUESTIONS[number % len(QUESTIONS)]
    better, worse = number % 3 == 0, number % 7 == 1
    tools = [
        {"rank": 1, "id": "notion", "name": "Notion", "url": "https://www.notion.so", "score": 0.91},
        {"rank": 2, "id": "evil", "name": EVIL, "url": EVIL_URL, "score": 0.52},
    ]

    def arm(answer: str, right: bool, invented: bool) -> dict[str, Any]:
        scores = {"tool_right": float(right), "house_format": right, "invented_url": int(invented), "chrf": 31.5}
        return {
            "answer": answer,
            "scores": scores,
            "latency_ms": 2950.4,
            "completion_tokens": 41,
            "finish_reason": "stop",
        }

    return {
        "id": f"t-{number + 1:04d}", "question": f"{question} ({number + 1})", "lang": lang, "kind": kind,
        "golden": "추천: Notion\n이유: 여럿이 함께 문서를 고칠 수 있습니다.\n링크: https://www.notion.so",
        "tools": ["notion"], "also": [], "retrieved": tools,
        "base": arm(f"관련 정보: {EVIL} 회의록 회의록", worse, invented=better),
        "tuned": arm("추천: Notion\n이유: 문서를 함께 씁니다.\n링크: https://www.notion.so", better, invented=worse),
    }  # fmt: skip


def evaluation(folder: Path, backend: str, count: int = 4, **changes: Any) -> None:
    """An evaluation file of a backend with `count` items."""
    content = {
        "run_id": folder.name, "backend": backend, "base_model": "gemma3-270m", "tuned_model": "mulle-01JD",
        "adapter_id": "01JDADAPTER", "n": count, "test_sha256": "ab" * 32, "started": "2026-11-23T09:14:00+00:00",
        "seconds": 210.5, "metrics": metrics(count), "items": [item(number) for number in range(count)],
    }  # fmt: skip
    write(folder, f"evaluation-{backend}.json", content | changes)


def training() -> dict[str, Any]:
    """metrics.json of an adapter."""
    return {
        "history": [
            {"step": s, "epoch": s / 40, "loss": 2.6 / (1 + 0.12 * s) + 0.03 * (s % 3), "learning_rate": 5e-4}
            for s in range(1, 61)
        ],
        "eval_history": [{"step": s, "loss": 2.2 / (1 + 0.1 * s) + 0.1} for s in (15, 30, 45, 60)],
        "steps": 60, "epochs": 2.0, "rows_train": 210, "rows_holdout": 23, "train_seconds": 431.2, "best_step": 45,
        "peak_memory_bytes": 3_120_000_000, "dtype": "float32", "quantisation": "nf4", "final_loss": 0.31,
        "hparams": {"lora_rank": 16},
    }  # fmt: skip


def full_run(folder: Path, count: int = 170) -> Path:
    """A run whose stages all succeeded, with a dataset version beside it."""
    stage(folder, "index", 0, 6.1, {"tools": 205, "rejected": 1, "rejects": [{"line": 7, "reason": "no name"}]})
    stage(folder, "ingest", 1, 3.4, {"rows_added": {"requests": 280}, "total": {"dropped": {"duplicate_id": 2}}})
    build = {
        "dataset": "0123456789abcdef",
        "counts": {"rows": 233, "train": 210, "holdout": 23, "rejected": 31},
        "label_sources": {"golden": 198, "synthetic": 35},
        "languages": {"ko": 0.67, "en": 0.33},
        "drops": {"near_duplicate": 20, "wrong_language": 11},
    }
    stage(folder, "build", 2, 12.9, build)
    rejects = folder.parent.parent / "datasets" / "0123456789abcdef"
    write(rejects, "manifest.json", {"version": "0123456789abcdef", "counts": build["counts"]})
    (rejects / "rejects.jsonl").write_bytes(
        orjson.dumps({"source_id": "q-1", "reason": "near_duplicate", "sample": f"피그마 대신 {EVIL}"}) + b"\n"
    )
    stage(
        folder,
        "synthesize",
        3,
        95.0,
        {"asked": 60, "parsed": 22, "kept": 9, "yield": 0.15, "drops": {"not_parsed": 38}},
    )
    stage(
        folder, "finetune", 5, 466.0, {"adapter_id": "01JDADAPTER", "dataset": build["dataset"], "training": training()}
    )
    stage(folder, "evaluate", 13, 402.7, {"n": count})
    stage(folder, "promote", 20, 4.2, {"promoted": True})
    stage(folder, "export", 21, 33.0, {"file": "models/gguf/01JDADAPTER/model-q8_0.gguf"})
    stage(folder, "cycle", 1, 1050.0, {"stages": 7})
    checks = [{"name": "over_refusal", "value": 0.04, "sign": "<=", "limit": 0.02, "passed": False}]
    write(folder, "gate-vllm.json", {"passed": True, "checks": [], "adapter_id": "01JDADAPTER", "n": count})
    write(folder, "gate-lmstudio.json", {"passed": False, "checks": checks, "adapter_id": "01JDADAPTER", "n": count})
    seconds = {"start": 41.2, "ask": 190.0, "reviews": 9.0, "cycle": 760.0, "vllm": 30.5, "lmstudio": 140.0}
    write(folder, "demo.json", {"run_id": folder.name, "seconds": seconds, "traffic": {"questions": {"asked": 220}}})
    evaluation(folder, "vllm", count)
    evaluation(folder, "lmstudio", count)
    return folder
