"""Which entries and kinds a synthesis asks about, and each kind on its whole way: scripted server, real tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import ValidationError

from flows.steps.synthesis_asks import Ask, choose_asks, shares_of, spread
from flows.steps.synthesis_frames import framed
from flows.steps.synthesis_judge import read_verdict
from flows.steps.synthesis_names import CatalogNames
from flows.steps.synthesis_near import too_near
from flows.steps.synthesis_sample import survey
from flows.steps.synthesize import Judge, SynthesisConfig, run_synthesize
from flows.steps.synthesize_stage import seed_of, synthesis_config, synthesis_judge
from flows.synthesis_settings import SynthesisSettings
from flows.teacher_settings import TeacherSettings
from lake import house_style
from lake.prompt import PromptBuilder
from lake.schemas.records import RetrievedItem
from lake.schemas.rows import Tool
from lake.tables import append, scan
from lake.tool_table import ToolTable, write_tools
from serving.backends import Backend
from tests.flows.scripted_llm import Body, Said, completion, scripted_llm
from tests.lake.review_kit import request

BUILDER = PromptBuilder(lambda text: len(text.split()), 200, 3)


def tool(name: str, about: str, category: str = "c", **more: Any) -> Tool:
    return Tool(name.lower(), name, about, f"https://{name.lower()}.example", category, (), (), about, **more)


ZOOM = tool("Zoom", "화상 회의를 열고 녹화할 수 있는 도구입니다.")
NOTE = tool("Notty", "메모와 문서를 팀이 함께 씁니다.")
TOOLS = [ZOOM, NOTE]
MANY = [tool(f"Tool{n}", "설명입니다", f"cat{n % 7}" if n < 60 else "cat0") for n in range(100)]


def asks(tools: Sequence[Tool], count: int, seed: int = 1, shares: str = "need=1", **more: Any) -> list[Ask]:
    options: dict[str, Any] = {
        "korean_share": 0.5, "per_tool": 2, "form": "lines", "max_tokens": 10, "temperature": 0.0,
    }  # fmt: skip
    return list(choose_asks(survey(tools, seed), count=count, shares=shares_of(shares), seed=seed, **options | more))


def test_the_choice_is_seeded_and_spread_over_categories(tmp_path: Path) -> None:
    chosen = [one.subject for one in asks(MANY, 21)]
    assert [one.subject for one in asks(MANY[::-1], 21)] == chosen  # whatever the order of the catalogue
    assert [one.subject for one in asks(MANY, 30)][:21] == chosen  # fewer are a prefix of more
    assert [one.subject for one in asks(MANY, 21, seed=2)] != chosen
    by_id = {one.id: one for one in MANY}
    assert set(Counter(by_id[id].category for id in chosen).values()) == {3}
    assert {one.subject for one in asks(MANY, 1_000)} == set(by_id)
    write_tools(tmp_path / "tools.arrow", MANY)
    assert [one.llm for one in asks(ToolTable(tmp_path / "tools.arrow"), 21)] == [one.llm for one in asks(MANY, 21)]


def test_kinds_and_languages_keep_their_shares_at_any_length() -> None:
    shares = "need=0.4,howto=0.2,typo=0.2,compare=0.1,no_answer=0.1"
    for count in (10, 50, 100):
        made = asks(MANY, count, shares=shares, korean_share=0.7)
        kinds = Counter(one.kind for one in made)
        assert all(abs(kinds[kind] - share * count) <= 2 for kind, share in shares_of(shares).items()), kinds
        assert abs(sum(one.lang == "ko" for one in made) - 0.7 * count) <= 2
    assert spread({("a", "ko"): 0.75, ("b", "ko"): 0.25}, 4).count(("a", "ko")) == 3
    for wrong in ("poem=1", "need", "need=0", "need=-1", "need=1,need=1", ""):
        with pytest.raises(ValueError, match=r"one of|share"):
            shares_of(wrong)


def test_a_comparison_is_of_two_tools_of_one_category() -> None:
    made = asks(MANY, 100, shares="compare=1", form="json")
    assert all(one.tool and one.other and one.tool.category == one.other.category for one in made)
    assert all(one.tool != one.other for one in made)
    assert len({one.other.id for one in made if one.other}) == 100  # round in a circle: each is a partner once
    alone = asks([ZOOM], 1, shares="compare=1")
    assert (alone[0].kind, alone[0].other) == ("need", None)


def test_names_are_found_as_whole_words_longest_first() -> None:
    names = CatalogNames.of(
        [tool("Google", "x"), tool("Google Docs", "x"), replace(tool("잔디밭", "x"), aliases=("JANDI",)), ZOOM]
    )
    assert names.found("Google Docs에서 잔디밭은 JANDI") == {"Google Docs", "잔디밭", "JANDI"}
    assert names.found("Googles, my-Zoom, Zoomer, zoom, 새잔디밭") == set()
    assert names.found("(Zoom)이나 Google.") == {"Zoom", "Google"}
    assert names.others("Zoom과 Google", [ZOOM]) == {"Google"}
    assert CatalogNames.of([]).found("Zoom") == set()


def test_near_questions_go_with_their_reason() -> None:
    own = ["화상 회의를 녹화하는 앱", "표로 그래프를 그리는 곳", "화상회의를 녹화하는 앱?", "영수증을 찍어 두는 가계부"]
    others = [("near_test", ["표로 그래프를 그리는 곳!"]), ("near_logged", ["영수증을 찍어두는 가계부 앱", "딴 것"])]
    assert too_near(own, others, 0.4) == {1: "near_test", 2: "duplicate", 3: "near_logged"}
    assert too_near([], others, 0.4) == {}


def test_small_models_needs_become_other_kinds() -> None:
    assert "Zoom" in framed("howto", "ko", "회의 녹화", "Zoom", "", 1)
    made = {framed("compare", "ko", f"회의 녹화 {n}", "잔디", "Zoom", 1) for n in range(20)}
    assert all("잔디" in text and "Zoom" in text for text in made)
    assert any("잔디와 Zoom" in text for text in made)
    made = {framed("compare", "ko", "x", "물감", "Zoom", n) for n in range(20)}
    assert {text.split("Zoom")[0].strip() for text in made} == {"물감과", "x 물감이랑", "물감 쓸지"}
    assert any("줄로 x" in framed("howto", "ko", "x", "줄", "", n) for n in range(20))
    assert framed("need", "ko", "회의 녹화", "Zoom", "", 1) == "회의 녹화"


def test_verdicts() -> None:
    assert [read_verdict(text) for text in ('{"fits": true}', '```{"fits": "no"', "maybe", '{"fits": 3}', "")] == [
        True, False, None, None, None,
    ]  # fmt: skip


class Found:
    def __init__(self, items: list[RetrievedItem]) -> None:
        self.items = items


class Shelf:
    """Finds both tools for every question, with a low score where it is about a sink."""

    def search(self, question: str, top_k: int, lang: str | None = None) -> Found:
        score = 0.05 if "싱크대" in question else 0.9
        return Found(
            [
                RetrievedItem(rank, score / rank, one.id, one.name, one.url, one.text("ko"), "", [], one.category)
                for rank, one in enumerate(TOOLS, start=1)
            ]
        )


def items(*pairs: tuple[str, str]) -> Said:
    return completion(orjson.dumps({"items": [{"question": q, "answer": a} for q, a in pairs]}).decode())


def run(root: Path, base: str, shares: str, judge: Judge | None = None, **options: Any) -> dict[str, Any]:
    config = SynthesisConfig(shares=shares_of(shares), korean_share=1.0, form="json", **options)
    return run_synthesize(
        root / "lake", root / "work", "r1", TOOLS, Shelf(), BUILDER, Backend("openai", base, "big"), None, config,
        judge, pause_s=0.01,
    )  # fmt: skip


def test_no_answer_rows_only_where_little_is_found(tmp_path: Path) -> None:
    said = items(
        ("막힌 싱크대를 오늘 뚫어 주세요", "관련 정보에 막힌 싱크대를 뚫는 도구는 없습니다."),
        ("회의록을 정리해 줄 사람 불러 주세요", "관련 정보에 회의록을 정리해 줄 사람은 없습니다."),
    )
    with scripted_llm(lambda _: said) as server:
        report = run(tmp_path / "cold", server.base, "no_answer=1", tools=1)
        assert report["reasons"] == {"no_reference": 2}  # nothing to compare a low score with
        logged = [request(n, f"질문 번호 {n}번이에요") for n in range(30)]
        append(tmp_path / "warm" / "lake", "requests", logged)
        report = run(tmp_path / "warm", server.base, "no_answer=1", tools=1)
    assert report["reasons"] == {"catalogue_may_answer": 1} and report["kinds"] == {"no_answer": 1}
    row = scan(tmp_path / "warm" / "lake", "synthetic").collect().row(0, named=True)
    assert (row["tool_id"], row["kind"], row["lang"]) == ("", "no_answer", "ko")
    parsed = house_style.parse(row["answer"])
    assert parsed is not None and parsed.name is None


def test_a_comparison_and_typos_on_their_way(tmp_path: Path) -> None:
    def script(body: Body) -> Said:
        text = body["messages"][0]["content"]
        if "둘째 도구: Notty" in text:
            return items(("Zoom이랑 Notty 중에 화상 회의 녹화는 뭐가 나아요?", "화상 회의를 열고 녹화할 수 있습니다."))
        if "둘째 도구: Zoom" in text:
            return items(("Notty랑 Zoom 중에 팀 문서는 어디에 쓸까요?", "메모와 문서를 팀이 함께 씁니다."))
        return items(("팀이 메모를 함께 적어 둘 곳이 필요해요", "메모와 문서를 팀이 함께 씁니다."))

    with scripted_llm(script) as server:
        report = run(tmp_path, server.base, "compare=1", tools=2)
        assert report["kinds"] == {"compare": 2}
        assert server.asked[0]["response_format"]["type"] == "json_schema"
        rows = scan(tmp_path / "lake", "synthetic").collect().to_dicts()
        assert all("Zoom" in row["question"] and "Notty" in row["question"] for row in rows)
        answers = sorted(house_style.parse(row["answer"]).name or "" for row in rows)  # type: ignore[union-attr]
        assert answers == ["Notty", "Zoom"]
        report = run(tmp_path / "typo", server.base, "typo=1", tools=2, seed=3)
    kept = [row for row in scan(tmp_path / "typo" / "lake", "synthetic").collect().to_dicts() if row["kind"] == "typo"]
    assert kept and all(row["question"] != "팀이 메모를 함께 적어 둘 곳이 필요해요" for row in kept)


def test_the_judge_lets_nothing_through_that_it_did_not_find_right(tmp_path: Path) -> None:
    said = items(
        ("화상 회의를 녹화하는 앱이 있나요", "화상 회의를 열고 녹화할 수 있습니다."),
        ("멀리 있는 팀과 얼굴 보며 이야기하기", "화상 회의를 열 수 있는 도구입니다."),
        ("온라인 강의 장면을 남겨 두고 싶어요", "화상 회의를 녹화할 수 있는 도구입니다."),
    )

    def judge(body: Body) -> Said:
        text = body["messages"][1]["content"]
        assert "추천: Zoom" in text and "관련 정보" in text
        return completion('{"fits": true}' if "녹화하는 앱" in text else "?" if "강의" in text else '{"fits": false}')

    with scripted_llm(lambda _: said) as writer, scripted_llm(judge) as reader:
        config = {"shares": "need=1", "tools": 2, "per_tool": 3}
        one = Judge(Backend("openai", reader.base, "strict"), budget_tokens=100_000)
        report = run(tmp_path, writer.base, judge=one, **config)
        assert report["judge"]["said"] == {"no": 1, "unreadable": 1, "yes": 1} and report["judge"]["tokens"] == 360
        assert report["reasons"]["judge_no"] == report["reasons"]["judge_unreadable"] == 1
        rows = scan(tmp_path / "lake", "synthetic").collect().to_dicts()
        assert [row["judge"] for row in rows] == ["strict"]
        poor = replace(one, budget_tokens=1)
        report = run(tmp_path / "poor", writer.base, judge=poor, **config)
        assert (report["kept"], report["reasons"]["judge_budget"]) == (0, 3)


def test_the_budget_ends_the_asking_and_a_larger_one_goes_on(tmp_path: Path) -> None:
    said = items(("화상 회의를 녹화하는 앱이 있나요", "화상 회의를 녹화할 수 있습니다."))
    with scripted_llm(lambda _: said) as server:
        report = run(tmp_path, server.base, "need=1", tools=2, budget_tokens=900, concurrency=1)
        assert (report["returned"], report["reasons"]["budget"]) == (1, 1) and report["tokens"] == 120
        report = run(tmp_path, server.base, "need=1", tools=2)
        assert (report["returned"], report["cached"], len(server.asked)) == (2, 1, 2)


def test_settings_reach_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {
        "SHARES": "need=1,typo=1", "KOREAN_SHARE": "0.5", "MAX_TOOLS": "7", "CONCURRENCY": "3", "DEADLINE_S": "9",
        "MAX_TOKENS": "99", "PROMPT_PRICE": "1", "COMPLETION_PRICE": "2", "BUDGET_TOKENS": "11", "BUDGET_COST": "1.5",
        "API_BASE": "http://127.0.0.1:1/v1", "MODEL": "m", "JUDGE": "1",
    }  # fmt: skip
    default = synthesis_config(SynthesisSettings(), None, 5, 1, 4)
    assert (default.form, default.concurrency, set(default.shares)) == (
        "lines", 4, {"need", "howto", "typo", "compare", "no_answer"},
    )  # fmt: skip
    assert synthesis_judge(SynthesisSettings(), TeacherSettings()) is None
    for name, value in values.items():
        monkeypatch.setenv(f"MULLE_SYNTH_{name}", value)
    made = synthesis_config(SynthesisSettings(), 3, 2, 5, 4)
    assert made.shares == {"need": 0.5, "typo": 0.5} and made.form == "json"
    assert (made.korean_share, made.max_tools, made.concurrency, made.deadline_s, made.max_tokens) == (0.5, 7, 3, 9, 99)
    assert (made.prices.prompt, made.prices.completion, made.budget_tokens, made.budget_cost) == (1, 2, 11, 1.5)
    monkeypatch.setenv("MULLE_SYNTH_FORM", "lines")
    assert synthesis_config(SynthesisSettings(), 3, 2, 5, 4).form == "lines"
    monkeypatch.setenv("MULLE_TEACHER_API_BASE", "http://127.0.0.1:2/v1")
    monkeypatch.setenv("MULLE_TEACHER_MODEL", "strict")
    judge = synthesis_judge(SynthesisSettings(), TeacherSettings())
    assert judge is not None and judge.backend.model == "strict"
    monkeypatch.setenv("MULLE_SYNTH_SHARES", "poem=1")
    with pytest.raises(ValidationError, match="poem"):
        SynthesisSettings()
    assert seed_of("a") != seed_of("b") and seed_of("a") == seed_of("a")
