"""What an answer is worth: readings of house style and of free text, and intervals that keep the pairing."""

from __future__ import annotations

import pytest

from flows.steps.metrics import METRICS, aggregate, flips, score_answer
from flows.steps.named_tools import ToolNames, normal_url
from flows.steps.text_scores import chrf, rouge_l, token_f1, tokens
from lake.schemas.records import RetrievedItem
from lake.schemas.rows import EvalCase, Tool

FIGMA = Tool("figma", "Figma", "d", url="https://www.figma.com", aliases=("피그마",))
SKETCH = Tool("sketch", "Sketch", "d", url="https://www.sketch.com")
GO = Tool("go", "Go", "d", url="https://go.dev")
NOTION = Tool("notion", "Notion", "d", url="https://www.notion.so", aliases=("노션",))
NAMES = ToolNames([FIGMA, SKETCH, GO, NOTION])


def item(tool: Tool, rank: int) -> RetrievedItem:
    return RetrievedItem(rank, 1.0 / rank, tool.id, tool.name, tool.url, tool.description, "c", [], "x")


RETRIEVED = [item(FIGMA, 1), item(SKETCH, 2), item(GO, 3)]
GOLDEN = "추천: Figma\n이유: 함께 편집합니다.\n링크: https://www.figma.com"
CASE = EvalCase("t-1", "화면 시안", "ko", GOLDEN, ["figma"], ["sketch"])
NONE = EvalCase("t-2", "배관 수리", "ko", "추천: 적합한 도구 없음\n이유: 없습니다.", [], [])


def score(answer: str, case: EvalCase = CASE) -> dict[str, float | None]:
    return score_answer(case, RETRIEVED, answer, 12.0, NAMES)


def test_the_golden_answer_is_perfect() -> None:
    found = score(CASE.golden)
    for name in METRICS:
        if METRICS[name].unit == "share" and METRICS[name].better == "up" and name != "no_tool_right":
            assert found[name] == 1.0, name
    assert found["invented_url"] == found["over_refusal"] == 0.0 and found["no_tool_right"] is None
    assert found["chrf"] == pytest.approx(100) and found["rouge_l"] == found["token_f1"] == 1.0
    assert found["latency_ms"] == 12.0 and found["length_chars"] == len(CASE.golden)


def test_another_accepted_tool_is_right_too() -> None:
    found = score("추천: Sketch\n이유: 맞습니다.\n링크: https://sketch.com/")
    assert found["tool_right"] == found["tool_f1"] == found["url_right"] == 1.0


def test_a_wrong_tool_with_a_right_looking_address() -> None:
    found = score("추천: Go\n이유: 맞습니다.\n링크: https://figma.com")
    assert found["tool_right"] == found["tool_f1"] == found["url_right"] == 0.0
    assert found["invented_url"] == 0.0 and found["house_format"] == 1.0


def test_free_text_is_read_so_that_the_base_is_not_punished_for_its_form() -> None:
    found = score("피그마를 추천합니다. https://www.figma.com 에서 쓸 수 있습니다.")
    assert found["house_format"] == 0.0
    assert found["tool_right"] == found["tool_f1"] == found["url_right"] == found["named_only_retrieved"] == 1.0


def test_a_list_of_everything_costs_precision() -> None:
    found = score("Go, Figma, Sketch 가 있습니다.")
    assert found["tool_right"] == 0.0  # Go comes first
    assert found["tool_precision"] == pytest.approx(2 / 3) and found["tool_recall"] == 1.0
    assert found["tool_f1"] == pytest.approx(0.8)


def test_inventions_are_counted() -> None:
    unknown = score("추천: SuperTool\n이유: 좋습니다.\n링크: https://super.example")
    assert unknown["invented_url"] == 1.0 and unknown["named_only_retrieved"] == 0.0
    assert unknown["tool_precision"] == 0.0
    elsewhere = score("추천: Notion\n이유: 좋습니다.\n링크: https://www.notion.so")
    assert elsewhere["named_only_retrieved"] == 0.0 and elsewhere["invented_url"] == 1.0
    cut = score("추천: Figma\n이유: 좋습니다.\n링크: https://www.figm")
    assert cut["invented_url"] == 1.0 and cut["url_right"] == 0.0


def test_refusals() -> None:
    right = score(NONE.golden, NONE)
    assert right["no_tool_right"] == right["tool_right"] == right["tool_f1"] == 1.0
    assert right["over_refusal"] is None and right["url_right"] is None and right["retrieved_right"] is None
    wrong = score(NONE.golden, CASE)
    assert wrong["over_refusal"] == 1.0 and wrong["tool_right"] == 0.0
    spoken = score("관련 정보에는 맞는 도구가 없습니다.", NONE)
    assert spoken["no_tool_right"] == 1.0
    for noise in ("", "음", "!!!"):
        assert score(noise, NONE)["no_tool_right"] == 0.0


def test_language_is_that_of_the_question() -> None:
    assert score("Recommendation: Figma\nReason: It works.\nLink: https://www.figma.com")["language_match"] == 0.0
    assert score("https://www.figma.com")["language_match"] == 0.0
    assert score("")["language_match"] == 0.0


def test_names_are_found_whole_and_with_particles() -> None:
    assert NAMES.scan("Google 과 Gopher") == ()
    assert NAMES.scan("go 언어, FIGMA로") == ("go", "figma")
    assert NAMES.scan("피그마를 쓰세요") == ("figma",)
    assert NAMES.scan("see https://www.figma.com/sketch") == ()


def test_addresses_are_compared_without_their_dress() -> None:
    assert normal_url("HTTPS://WWW.Figma.com/") == normal_url("http://figma.com.") == "figma.com"
    assert normal_url("https://a.b/C") != normal_url("https://a.b/c")


def test_tokens_are_syllables_and_words() -> None:
    assert tokens("Figma로 3개, 봐!") == ["figma", "로", "3", "개", "봐"]
    assert token_f1("a b", "b c") == pytest.approx(0.5)
    assert rouge_l("a b c", "c b a") == pytest.approx(1 / 3)
    assert token_f1("", "") == rouge_l("", "") == 1.0 and token_f1("", "a") == 0.0
    assert 0 <= chrf("", "가나다") < 1


def test_intervals_are_paired_and_reproducible() -> None:
    base = [score(NONE.golden if i % 2 else CASE.golden) for i in range(40)]
    tuned = [score(CASE.golden) for _ in range(40)]
    one, two = aggregate(base, tuned), aggregate(base, tuned)
    assert one == two
    right = one["tool_right"]
    assert right["base"]["value"] == 0.5 and right["tuned"]["value"] == 1.0 and right["diff"]["value"] == 0.5
    assert 0.3 < right["diff"]["lo"] < 0.5 < right["diff"]["hi"] < 0.7
    same = aggregate(tuned, tuned)["tool_right"]["diff"]
    assert same == {"value": 0.0, "lo": 0.0, "hi": 0.0}
    assert one["no_tool_right"]["base"] == {"value": None, "lo": None, "hi": None, "n": 0}


def test_a_constant_shift_has_no_width_although_the_arms_vary() -> None:
    base = [{"chrf": float(i)} for i in range(30)]
    tuned = [{"chrf": float(i) + 5} for i in range(30)]
    found = aggregate(base, tuned)["chrf"]
    assert found["diff"] == {"value": 5.0, "lo": 5.0, "hi": 5.0} and found["base"]["hi"] > found["base"]["lo"]


def test_arms_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="same items"):
        aggregate([{}], [])


def test_flips_name_what_changed() -> None:
    items = [
        {"id": "a", "base": {"scores": {"tool_right": 0.0}}, "tuned": {"scores": {"tool_right": 1.0}}},
        {"id": "b", "base": {"scores": {"tool_right": 1.0}}, "tuned": {"scores": {"tool_right": 0.0}}},
        {"id": "c", "base": {"scores": {"tool_right": 1.0}}, "tuned": {"scores": {"tool_right": 1.0}}},
    ]
    assert flips(items) == {"won": ["a"], "lost": ["b"]}
