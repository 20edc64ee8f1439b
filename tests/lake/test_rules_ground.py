"""Grounding: an answer names only what its prompt showed."""

from __future__ import annotations

from lake import house_style
from lake.rules.clean import KEEP
from lake.rules.ground import NameFinder, grounded, named_tools, repaired, right_tool
from lake.schemas.records import RetrievedItem


def item(rank: int, name: str, url: str) -> RetrievedItem:
    return RetrievedItem(rank, 0.5, name.lower(), name, url, "", "", [], "")


SLACK, ZOOM, TEAMS = (
    item(1, "Slack", "https://slack.com"),
    item(2, "Zoom", "https://zoom.us"),
    item(3, "Microsoft Teams", "https://teams.microsoft.com"),
)
ITEMS = [SLACK, ZOOM, TEAMS]
SHOWN = ["slack", "zoom"]
PROMPT = (
    "질문: Figma 말고 메신저\n\n관련 정보:\n1. Slack (협업) - 메신저. https://slack.com\n2. Zoom - https://zoom.us"
    "\n\n답변: "
)
NAMES = ["Slack", "Zoom", "Figma", "Microsoft Teams", "Notion", "R", "Linear"]


def check(answer: str) -> tuple[bool, str]:
    return grounded(answer, ITEMS, SHOWN, PROMPT, NAMES)


def test_a_shown_tool_with_its_own_url_is_fine() -> None:
    assert check(house_style.render("ko", "Slack", "메신저입니다.", "https://slack.com/")) == KEEP
    assert check(house_style.render("en", "slack", "It is a messenger.", "HTTPS://Slack.com")) == KEEP
    assert check(house_style.render("ko", None, "목록에 맞는 도구가 없습니다.", None)) == KEEP


def test_other_tools_and_urls_are_not() -> None:
    assert check(house_style.render("ko", "Notion", "위키입니다.", None)) == (False, "ungrounded")
    assert check(house_style.render("ko", "Slack", "메신저입니다.", "https://zoom.us")) == (False, "ungrounded")
    assert check(house_style.render("ko", "Slack", "https://evil.example 참고", None)) == (False, "ungrounded")
    assert check(house_style.render("ko", "Slack", "Notion보다 낫습니다.", None)) == (False, "ungrounded")
    assert check(house_style.render("ko", None, "Notion에는 없습니다.", None)) == (False, "ungrounded")


def test_retrieved_but_not_shown_has_its_own_reason() -> None:
    answer = house_style.render("ko", "Microsoft Teams", "회의 도구입니다.", "https://teams.microsoft.com")
    assert grounded(answer, ITEMS, [*SHOWN, "microsoft teams"], PROMPT, NAMES)[0]
    assert check(house_style.render("ko", "Microsoft Teams", "회의 도구입니다.", None)) == (False, "not_shown")


def test_what_the_question_names_may_be_named() -> None:
    assert check(house_style.render("ko", "Slack", "Figma와 달리 메신저입니다.", None)) == KEEP


def test_free_text_must_name_a_shown_tool() -> None:
    assert check("Slack을 써 보세요. https://slack.com") == KEEP
    assert check("좋은 도구가 많습니다.") == (False, "ungrounded")
    assert check("Slack이나 Notion을 써 보세요.") == (False, "ungrounded")


def test_names_are_whole_words_in_their_own_case() -> None:
    names = ["Google", "Google Docs", "Linear", "R", "Node.js"]
    assert named_tools("Google Docs로 씁니다", names) == {"Google Docs"}
    assert named_tools("linear regression in R, Linearity", names) == set()
    assert named_tools("Linear는 이슈 관리, Node.js용", names) == {"Linear", "Node.js"}
    assert named_tools("아무거나", []) == set()


def test_the_right_tool_must_stand_in_the_prompt() -> None:
    assert right_tool(["slack"], ITEMS, SHOWN) == KEEP
    assert right_tool([], ITEMS, SHOWN) == KEEP
    assert right_tool(["microsoft teams"], ITEMS, SHOWN) == (False, "not_shown")
    assert right_tool(["notion"], ITEMS, SHOWN) == (False, "not_retrieved")


def test_only_the_wrong_link_of_a_rightly_named_tool_is_repaired() -> None:
    def fix(answer: str) -> tuple[str, list[str]]:
        return repaired(answer, ITEMS, SHOWN)

    good = house_style.render("ko", "Slack", "메신저입니다.", "https://slack.com")
    assert fix(good.replace("slack.com", "slack.example")) == (good, ["url"])
    assert fix(good) == (good, [])
    assert fix("Slack을 써 보세요. https://evil.example/a") == ("Slack을 써 보세요. https://slack.com", ["url"])
    for left in (
        house_style.render("ko", "Notion", "위키입니다.", "https://evil.example"),  # not shown
        house_style.render("ko", None, "없습니다.", None),
        "Slack이나 Zoom을 써 보세요. https://evil.example",  # whose link it was to be is not known
        "Slack은 https://slack.com 이고 https://evil.example 도 있습니다.",
    ):
        assert fix(left) == (left, [])


def test_a_catalogue_of_a_hundred_thousand_names_is_searched_like_a_small_one() -> None:
    finder = NameFinder([f"Tool {n:06}" for n in range(100_000)] + ["Google", "Google Docs"])
    assert finder.find("Google Docs와 Tool 012345를 씁니다, Tool 0123456은 없습니다") == {"Google Docs", "Tool 012345"}
