"""The report page and the table, from run folders made by hand."""

from __future__ import annotations

import base64
import hashlib
import re
import warnings
from html.parser import HTMLParser
from pathlib import Path
from typing import Literal

import matplotlib as mpl
import pytest

from flows.steps import report_labels
from flows.steps.fonts import embedded_font, find_korean_font, missing_glyphs, packaged_font, register_korean_font
from flows.steps.report import ReportSummary, build_report, summary_table
from flows.steps.report_charts import difference_chart, tidy_svg
from flows.steps.report_data import Evaluation, load_run
from flows.steps.report_figures import figure_row, figure_rows
from flows.steps.report_table import MAX_COLUMNS, display_width, fit
from flows.steps.report_view import cards
from lake.errors import InputError, SetupError
from tests.flows import run_folders as made

ENVIRONMENT = {"machine": {"cpu": "시험용", "cores": 2}, "versions": {"torch": "2.13.0"}}


class Page(HTMLParser):
    """Collects what a browser would see: tags with attributes, text, contents of style and script."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.raw: dict[str, list[str]] = {"style": [], "script": []}
        self._open = ""
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))
        self._open = tag

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        self.raw.get(self._open, self.words).append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def with_class(self, name: str) -> list[dict[str, str]]:
        return [attrs for _, attrs in self.tags if name in attrs.get("class", "").split()]


def build(folder: Path, lang: Literal["ko", "en"] = "ko") -> tuple[ReportSummary, Page, str]:
    out = folder.parent.parent / "reports" / f"{folder.name}.{lang}.html"
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a missing glyph is a UserWarning of matplotlib
        summary = build_report(folder, out, lang, ENVIRONMENT)
    source = out.read_text("utf-8")
    return summary, Page(source), source


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.full_run(tmp_path_factory.mktemp("data") / "runs" / "01JDRUN", 170)


@pytest.fixture(scope="module")
def built(full: Path) -> tuple[ReportSummary, Page, str]:
    return build(full)


def test_summary(built: tuple[ReportSummary, Page, str]) -> None:
    summary, _, source = built
    assert (summary.run_id, summary.status, summary.failed_stage) == ("01JDRUN", "ok", "")
    assert (summary.questions, summary.backends) == (170, ["vllm", "lmstudio"])
    assert summary.bytes == len(source.encode()) < 3_000_000
    assert "15.3 % → 57.1 %" in summary.verdict[0] and "+33.5 … +50.0" in summary.verdict[0]


def test_page_asks_for_nothing(built: tuple[ReportSummary, Page, str]) -> None:
    _, page, source = built
    for tag, attrs in page.tags:
        for name in ("src", "href", "srcset", "action", "data", "poster", "xlink:href"):
            assert attrs.get(name, "#").startswith(("#", "data:")), (tag, attrs)
        assert not [name for name in attrs if name.startswith("on") or name == "style"], (tag, attrs)
    assert {tag for tag, _ in page.tags} & {"link", "img", "iframe", "object", "embed", "base"} == set()
    assert not re.search(r"url\((?!#|data:)", source)
    assert "@import" not in source


def test_policy_names_exactly_the_inline_style_and_script(built: tuple[ReportSummary, Page, str]) -> None:
    _, page, _ = built
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'") and "unsafe" not in policy
    for kind in ("style", "script"):
        assert [tag for tag, _ in page.tags].count(kind) == 1
        digest = base64.b64encode(hashlib.sha256("".join(page.raw[kind]).encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy


def test_everything_from_a_run_is_escaped(built: tuple[ReportSummary, Page, str]) -> None:
    _, page, source = built
    assert made.EVIL not in source
    assert made.EVIL in page.text  # shown, as text
    assert made.EVIL_URL in page.text
    assert source.count("<script") == 1


def test_every_question_is_there_with_marks_and_filters(built: tuple[ReportSummary, Page, str]) -> None:
    _, page, _ = built
    shown = page.with_class("card")
    assert len(shown) == 170
    assert {attrs["data-lang"] for attrs in shown} == {"ko", "en"}
    assert len(page.with_class("pair")) == 340
    assert {attrs["data-change"] for attrs in page.with_class("pair")} == {"", "improved", "worsened"}
    assert len(page.with_class("mark")) == 340 * 2 * 3
    assert {attrs.get("name") for tag, attrs in page.tags if tag == "select"} == {"lang", "kind", "backend", "change"}
    assert "1. Notion ✓ https://www.notion.so" in page.text
    assert "회의록을 팀이 같이 고치고 싶은데" in page.text


def test_figures_with_intervals_for_each_backend(built: tuple[ReportSummary, Page, str]) -> None:
    _, page, _ = built
    for name in ("vLLM · n=170", "LM Studio (llama.cpp) · n=170"):
        assert name in page.text
    assert page.text.count("+33.5 … +50.0") >= 4  # sentence and table, two backends
    assert page.text.count("8.3 … 22.3") == 2  # the arm's own interval
    assert "승격 관문에서 거부됨 (over_refusal 0.04 (<= 0.02))" in page.text


def test_dataset_drops_times_and_commands(built: tuple[ReportSummary, Page, str]) -> None:
    _, page, _ = built
    text = page.text
    assert "golden 198 (85.0 %)" in text and "ko 67.0 %" in text
    assert f"near_duplicate 피그마 대신 {made.EVIL} 20" in text
    assert "no name line 7 1" in text and "duplicate_id 2" in text and "not_parsed 38" in text
    assert "파인튜닝 finetune 09:05:00 466.0" in text
    assert "데모 전체 · 19 min 31 s" in text
    assert "prefect deployment run 'finetune/local' --watch" in text
    assert "시험용" in text


def test_charts_are_inline_drawings_with_unique_ids(built: tuple[ReportSummary, Page, str]) -> None:
    _, page, source = built
    assert sum(tag == "svg" for tag, _ in page.tags) == 3
    assert all(attrs.get("aria-label") for tag, attrs in page.tags if tag == "svg")
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    targets = {attrs["href"][1:] for _, attrs in page.tags if attrs.get("href", "").startswith("#")}
    assert targets <= set(ids)
    assert "var(--c1)" in source and "#030303" not in source


@pytest.mark.parametrize("lang", ["ko", "en"])
def test_both_languages(full: Path, lang: Literal["ko", "en"]) -> None:
    _, page, source = build(full, lang)
    assert f'<html lang="{lang}">' in source
    assert ("Before and after" in page.text) == (lang == "en")
    assert ("전과 후" in page.text) == (lang == "ko")


def test_every_label_has_both_languages() -> None:
    assert all(korean and english for korean, english in report_labels.all_texts().values())


def test_run_that_failed_says_where(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "01JDFAIL"
    made.stage(folder, "ingest", 1, 3.0, {})
    made.stage(folder, "cycle", 0, 60.0, {"error": "TrainingError", "message": "see finetune"}, "failed")
    made.stage(folder, "finetune", 2, 31.0, {"error": "TrainingError", "message": "loss <b>not</b> finite"}, "failed")
    (folder / "evaluate.json").write_text('{"stage": "eval')
    summary, page, _ = build(folder)
    assert (summary.status, summary.failed_stage, summary.questions) == ("failed", "finetune", 0)
    assert "실패했습니다: 파인튜닝 finetune" in page.text
    assert "loss <b>not</b> finite" in page.text
    assert "evaluate.json" in page.text  # named as unreadable, not dropped
    table = summary_table(folder)
    assert "파인튜닝" in table and "loss <b>not</b> finite" in table


def test_empty_run_and_missing_run(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "01JDNONE"
    folder.mkdir(parents=True)
    summary, page, _ = build(folder)
    assert summary.status == "incomplete"
    assert "평가 결과가 없습니다" in page.text
    assert "평가 결과가 없습니다" in summary_table(folder)
    with pytest.raises(InputError, match="no run"):
        build_report(tmp_path / "runs" / "nothing", tmp_path / "x.html")
    with pytest.raises(InputError, match="ko or en"):
        build_report(folder, tmp_path / "x.html", "fr")  # type: ignore[arg-type]


def test_zero_items_and_missing_figures(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "01JDZERO"
    empty = {"value": None, "lo": None, "hi": None, "n": 0}
    figures = {"tool_right": {"unit": "share", "better": "up", "base": empty, "tuned": empty, "diff": empty}}
    made.evaluation(folder, "vllm", 0, metrics=figures)
    summary, page, _ = build(folder)
    assert (summary.status, summary.questions) == ("ok", 0)
    assert "평가한 질문이 없습니다." in page.text
    row = figure_rows(load_run(folder).evaluations[0], "ko")[0]
    assert (row.before, row.after, row.difference, row.interval, row.judgement) == ("-", "-", "-", "-", "neutral")


def test_judgement_needs_an_interval_that_excludes_zero() -> None:
    def judge(lo: float, hi: float, better: str) -> str:
        return figure_row("tool_right", made.share(0.5, 0.5, lo, hi, better), "ko").judgement

    assert judge(0.01, 0.2, "up") == "better" and judge(0.01, 0.2, "down") == "worse"
    assert judge(-0.2, -0.01, "down") == "better" and judge(-0.2, -0.01, "up") == "worse"
    assert judge(-0.01, 0.2, "up") == "unclear" and judge(0.0, 0.0, "up") == "same"
    assert figure_row("x", made.share(0.5, 0.4, -0.2, -0.1, "down"), "en").improvement == pytest.approx((0.1, 0.1, 0.2))


def test_dataset_that_was_trained_on_wins(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "01JDSYN"
    made.stage(folder, "build", 1, 1.0, {"dataset": "a" * 16, "counts": {"rows": 5}})
    made.stage(folder, "finetune", 3, 1.0, {"dataset": "b" * 16})
    made.write(tmp_path / "datasets" / ("b" * 16), "manifest.json", {"counts": {"rows": 9}})
    assert load_run(folder).dataset["counts"] == {"rows": 9}
    made.stage(folder, "finetune", 3, 1.0, {"dataset": "../../etc"})
    assert load_run(folder).dataset["version"] == "a" * 16  # a name that is no version is not opened


def test_change_of_marks() -> None:
    item = made.item(0)
    item["tuned"]["scores"] = {"tool_right": 1.0, "house_format": False, "invented_url": 1}
    item["base"]["scores"] = {"tool_right": 0.0, "house_format": True, "invented_url": None}
    [card] = cards([load_like(item)])
    assert card.pairs[0].change == "mixed"
    assert [mark.good for mark in card.pairs[0].base.marks] == [False, True, None]


def load_like(item: dict[str, object]) -> Evaluation:
    return Evaluation("vllm", 1, {}, {}, [item])


@pytest.mark.parametrize("lang", ["ko", "en"])
def test_table_is_aligned_and_at_most_100_columns(full: Path, lang: Literal["ko", "en"]) -> None:
    lines = summary_table(full, lang).splitlines()
    assert max(map(display_width, lines)) <= MAX_COLUMNS
    assert sum("57.1 %" in line for line in lines) == 2
    rows = [line for line in lines if " .. " in line]
    ends = {display_width(line[: line.index(" .. ")]) for line in rows if "ms" not in line}
    judged = {display_width(re.split(r"  (?=\S+$)", line)[0]) for line in rows}
    assert len(rows) == 22 and len(judged) == 1, ends


def test_table_cuts_long_names() -> None:
    assert fit("도구도구도구", 7) == "도구.. "
    assert display_width(fit("가나다", 10, right=True)) == 10
    assert display_width("한a") == 3


def test_korean_glyphs_are_drawn() -> None:
    font = find_korean_font()
    labels = "".join(korean + english for korean, english in report_labels.all_texts().values())
    hangul = "".join(char for char in labels if "가" <= char <= "힣")
    assert missing_glyphs(font, hangul) == set()
    family = mpl.rcParams["font.family"]
    assert register_korean_font()
    assert mpl.rcParams["font.family"] == family  # nothing changed for other users of matplotlib
    assert embedded_font("한글 report").startswith("data:font/woff;base64,d09GR")


def test_packaged_font_and_its_absence(tmp_path: Path) -> None:
    packaged = packaged_font()
    assert packaged is not None and missing_glyphs(packaged, "한글") == set()
    assert find_korean_font([tmp_path]) == packaged
    (tmp_path / "NanumGothic.ttf").write_bytes(b"not a font")
    assert find_korean_font([tmp_path]) == packaged
    with pytest.raises(SetupError, match="make setup"):
        find_korean_font([tmp_path], package="no_such_package")


def test_chart_of_one_backend_and_of_none(full: Path) -> None:
    one = load_run(full).evaluations[0]
    assert "맞는 도구" not in difference_chart({"vllm": figure_rows(one, "ko")}, "ko")  # paths, not text
    assert difference_chart({}, "ko") == ""


def test_tidy_svg_moves_style_into_attributes() -> None:
    raw = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="9pt" version="1.1">'
        '<defs><style>*{color:red}</style><path id="a" style="fill: #010101; stroke: none"/></defs>'
        '<use xlink:href="#a" clip-path="url(#c)"/></svg>'
    )
    tidy = tidy_svg(raw, "p", 'a "label"')
    assert '<path id="p-a" fill="currentColor" stroke="none" />' in tidy
    assert 'href="#p-a"' in tidy and "url(#p-c)" in tidy
    assert "style" not in tidy and "width" not in tidy and "&quot;label&quot;" in tidy
