"""Words of the report in Korean and English. Pure data and one lookup; writes and reads nothing.

Invariant: every key has both languages (a test says so). Names that come from a run (stages, reasons, metrics that
this version does not know) are shown as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

Lang = Literal["ko", "en"]

METRICS: dict[str, tuple[str, str]] = {
    "tool_right": ("맞는 도구", "right tool"),
    "no_tool_right": ("없으면 없다고 답함", "right to say none"),
    "over_refusal": ("있는데 없다고 답함", "wrong to say none"),
    "house_format": ("정한 형식", "house format"),
    "url_right": ("도구 자신의 URL", "tool's own URL"),
    "invented_url": ("지어낸 URL", "invented URL"),
    "named_only_retrieved": ("검색된 도구만 언급", "names retrieved tools only"),
    "language_match": ("질문과 같은 언어", "language of the question"),
    "tool_precision": ("도구 정밀도", "tool precision"),
    "tool_recall": ("도구 재현율", "tool recall"),
    "tool_f1": ("도구 F1", "tool F1"),
    "retrieved_right": ("검색에 정답 있음 (상한)", "right tool retrieved (ceiling)"),
    "chrf": ("chrF", "chrF"),
    "rouge_l": ("ROUGE-L", "ROUGE-L"),
    "token_f1": ("토큰 F1", "token F1"),
    "length_chars": ("답 길이(자)", "answer length (chars)"),
    "latency_ms": ("응답 시간", "latency"),
}
STAGES: dict[str, tuple[str, str]] = {
    "index": ("색인", "index"),
    "ingest": ("수집", "ingest"),
    "reviews": ("검수 반영", "reviews"),
    "build": ("데이터셋", "build"),
    "synthesize": ("합성", "synthesize"),
    "finetune": ("파인튜닝", "finetune"),
    "evaluate": ("평가", "evaluate"),
    "evaluate-lmstudio": ("평가", "evaluate-lmstudio"),
    "promote": ("승격", "promote"),
    "export": ("내보내기", "export"),
    "cycle": ("전체 한 바퀴", "whole cycle"),
    "demo": ("데모", "demo"),
}
BACKENDS = {"vllm": "vLLM", "lmstudio": "LM Studio (llama.cpp)", "llamacpp": "llama.cpp"}
SHORT_BACKENDS = {"vllm": "vLLM", "lmstudio": "LM Studio"}
_TEXTS: dict[str, tuple[str, str]] = {
    "title": ("실행 보고서", "Run report"),
    "run": ("실행", "run"),
    "started": ("시작", "started"),
    "took": ("걸린 시간", "took"),
    "verdict": ("결론", "Verdict"),
    "headline": ("전과 후", "Before and after"),
    "loss": ("손실", "Loss"),
    "answers": ("전후 답 비교", "Answers, before and after"),
    "dataset": ("데이터셋", "Dataset"),
    "synthesis": ("합성", "Synthesis"),
    "times": ("단계별 시간", "Time of each stage"),
    "environment": ("환경과 재현", "Environment and how to repeat it"),
    "details": ("단계 기록 전체", "Stage records in full"),
    "metric": ("지표", "metric"),
    "before": ("전", "before"),
    "after": ("후", "after"),
    "difference": ("차이", "difference"),
    "interval": ("95 % 구간", "95 % interval"),
    "judgement": ("판정", "judgement"),
    "better": ("좋아짐", "better"),
    "worse": ("나빠짐", "worse"),
    "unclear": ("불분명", "unclear"),
    "same": ("같음", "same"),
    "neutral": ("-", "-"),
    "lower_is_better": ("낮을수록 좋음", "lower is better"),
    "points": ("%p", "pp"),
    "chars": ("자", "chars"),
    "chart_diff_axis": ("개선 폭 (%p, 오른쪽이 좋음)", "improvement (percentage points, right is better)"),
    "chart_diff_alt": (
        "지표별 개선 폭과 95 % 구간. 같은 값이 표에 있습니다.",
        "Improvement by metric with 95 % intervals; the same figures are in the table.",
    ),
    "chart_step": ("스텝", "step"),
    "chart_loss": ("손실", "loss"),
    "train": ("학습", "train"),
    "holdout": ("홀드아웃", "hold-out"),
    "best_step": ("고른 스텝", "chosen step"),
    "chart_loss_alt": ("학습과 홀드아웃 손실 곡선", "Loss curves of training and hold-out rows"),
    "chart_seconds": ("초", "seconds"),
    "chart_time_alt": ("단계별 걸린 시간. 같은 값이 표에 있습니다.", "Seconds of each stage, as in the table."),
    "no_evaluation": (
        "평가 결과가 없습니다: 이 실행은 평가까지 가지 못했거나 평가 파일이 없습니다.",
        "There is no evaluation: the run did not get that far, or its files are gone.",
    ),
    "no_items": ("평가한 질문이 없습니다.", "No question was evaluated."),
    "no_training": ("학습 기록이 없습니다.", "There is no training record."),
    "no_dataset": ("데이터셋 기록이 없습니다.", "There is no dataset record."),
    "no_synthesis": ("합성 단계 기록이 없습니다.", "There is no record of a synthesis stage."),
    "no_stages": ("단계 기록이 없습니다.", "There is no stage record."),
    "no_drops": ("버린 것이 없습니다.", "Nothing was dropped."),
    "failed_at": ("다음 단계에서 실패했습니다:", "The run failed at:"),
    "failed_help": (
        "그 뒤의 단계는 없습니다. 원인을 고친 뒤 같은 명령을 다시 실행하세요. 끝난 단계의 결과는 남아 있습니다.",
        "Nothing ran after it. Mend the cause and run the same command again; finished stages keep their results.",
    ),
    "unreadable": ("읽지 못한 파일", "Files that could not be read"),
    "interval_note": (
        "한 번도 학습에 쓰지 않은 질문에 대한 값입니다. "
        "차이의 95 % 구간이 0을 벗어날 때만 좋아짐·나빠짐이라고 적습니다.",
        "All figures come from questions that were never trained on. “Better” and “worse” are said only where the "
        "95 % interval of the difference excludes 0.",
    ),
    "filter_lang": ("언어", "language"),
    "filter_kind": ("종류", "kind"),
    "filter_backend": ("백엔드", "backend"),
    "filter_change": ("바뀜", "change"),
    "filter_text": ("질문 찾기", "find in questions"),
    "all": ("전체", "all"),
    "changed": ("판정이 바뀐 것만", "only changed"),
    "improved": ("좋아진 것만", "only improved"),
    "worsened": ("나빠진 것만", "only worse"),
    "shown": ("표시", "shown"),
    "none_match": ("조건에 맞는 질문이 없습니다.", "No question matches."),
    "retrieved": ("검색된 도구", "retrieved tools"),
    "golden": ("정답", "golden answer"),
    "base_answer": ("전: 베이스 모델", "before: base model"),
    "tuned_answer": ("후: 파인튜닝 모델", "after: fine-tuned model"),
    "no_answer": ("(답 없음)", "(no answer)"),
    "mark_tool_right": ("도구", "tool"),
    "mark_house_format": ("형식", "format"),
    "mark_invented_url": ("지어낸 URL 없음", "no invented URL"),
    "mark_yes": ("맞음", "yes"),
    "mark_no": ("틀림", "no"),
    "rows": ("행", "rows"),
    "count": ("개수", "number"),
    "share": ("비율", "share"),
    "label_source": ("정답 출처", "label source"),
    "language": ("언어", "language"),
    "what": ("항목", "what"),
    "value": ("값", "value"),
    "dropped": ("버린 것과 이유", "What was dropped, and why"),
    "stage": ("단계", "stage"),
    "reason": ("이유", "reason"),
    "samples": ("예", "samples"),
    "seconds": ("초", "seconds"),
    "status": ("상태", "status"),
    "ok": ("완료", "ok"),
    "failed": ("실패", "failed"),
    "incomplete": ("미완", "incomplete"),
    "machine": ("기계", "machine"),
    "versions": ("버전", "versions"),
    "commands": ("다시 해 보는 명령", "Commands to repeat it"),
    "gate_passed": ("승격 관문 통과", "the gate let it pass"),
    "gate_refused": ("승격 관문에서 거부됨", "the gate refused it"),
    "demo_times": ("데모 전체", "The demo as a whole"),
    "traffic": ("데모가 보낸 요청", "Requests that the demo sent"),
    "total": ("합계", "total"),
    "toc": ("차례", "contents"),
}  # fmt: skip


def texts(lang: Lang) -> Callable[[str], str]:
    """`t(key)` for one language; an unknown key raises `KeyError`, so that no label is forgotten."""
    column = 0 if lang == "ko" else 1
    return lambda key: _TEXTS[key][column]


def metric_label(name: str, lang: Lang) -> str:
    """Readable name of a metric."""
    return METRICS.get(name, (name, name))[0 if lang == "ko" else 1]


def stage_label(name: str, lang: Lang) -> str:
    """Readable name of a stage, with the id that commands use where the two differ."""
    label = STAGES.get(name, (name, name))[0 if lang == "ko" else 1]
    return label if label == name else f"{label} {name}"


def all_texts() -> dict[str, tuple[str, str]]:
    """Every label; for tests and for checking a font."""
    return {**_TEXTS, **METRICS, **STAGES}
