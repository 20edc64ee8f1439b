"""Charts of the report as inline SVG: text drawn as paths in a Korean font, colours taken from the page's theme.

Reads fonts; writes nothing. matplotlib's output is parsed and rebuilt: comments, metadata and its global <style>
go, `style` attributes become plain attributes (a strict content security policy stays possible), ids get a prefix
so that several charts share a page. Invariant: no chart refers to anything outside itself.
"""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from flows.steps.fonts import register_korean_font
from flows.steps.report_data import Stage, as_rows, number
from flows.steps.report_figures import FigureRow, backend_name
from flows.steps.report_labels import Lang, stage_label, texts

# Stand-ins that the page replaces by its own colours, so that one drawing serves light and dark.
INK, LINE, FIRST, SECOND, BAD = "#010101", "#020202", "#030303", "#040404", "#050505"
_THEME = {INK: "currentColor", LINE: "var(--line)", FIRST: "var(--c1)", SECOND: "var(--c2)", BAD: "var(--bad)"}
_WIDTH_IN = 5.6
_SVG = "http://www.w3.org/2000/svg"
_XLINK = "{http://www.w3.org/1999/xlink}href"


def _settings(family: str) -> Any:
    return {
        "font.family": [family], "font.size": 10.5, "svg.fonttype": "path", "svg.hashsalt": "mulle",
        "axes.unicode_minus": False, "axes.edgecolor": LINE, "axes.labelcolor": INK, "axes.linewidth": 1.0,
        "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True,
        "grid.color": LINE, "grid.linewidth": 0.7, "text.color": INK, "xtick.color": LINE, "ytick.color": LINE,
        "xtick.labelcolor": INK, "ytick.labelcolor": INK, "legend.frameon": False, "figure.facecolor": "none",
        "axes.facecolor": "none", "savefig.facecolor": "none",
    }  # fmt: skip


def tidy_svg(raw: str, prefix: str, label: str) -> str:
    """matplotlib's SVG as a fragment for an HTML page; `label` is what a screen reader says."""
    root = ET.fromstring(raw)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.removeprefix(f"{{{_SVG}}}")
        attributes = dict(element.attrib)
        for declaration in attributes.pop("style", "").split(";"):
            name, _, value = declaration.partition(":")
            if value:
                attributes[name.strip()] = value.strip()
        if _XLINK in attributes:
            attributes["href"] = attributes.pop(_XLINK)
        if "id" in attributes:
            attributes["id"] = f"{prefix}-{attributes['id']}"
        for name, value in attributes.items():
            if value.startswith("#") and name == "href":
                attributes[name] = f"#{prefix}-{value[1:]}"
            attributes[name] = re.sub(r"url\(#", f"url(#{prefix}-", attributes[name])
            attributes[name] = _THEME.get(attributes[name], attributes[name])
        element.attrib.clear()
        element.attrib.update(attributes)
    root.attrib.pop("version", None)
    for size in ("width", "height"):  # the page decides; the viewBox keeps the proportions
        root.attrib.pop(size, None)
    root.attrib.update({"role": "img", "aria-label": label, "class": "chart"})
    return ET.tostring(root, encoding="unicode")


def _draw(height_in: float, prefix: str, label: str, paint: Any) -> str:
    with mpl.rc_context(_settings(register_korean_font())):
        figure = Figure(figsize=(_WIDTH_IN, height_in), layout="constrained")
        paint(figure.add_subplot())
        target = io.StringIO()
        FigureCanvasSVG(figure).print_svg(target, metadata={"Date": None})
    return tidy_svg(target.getvalue(), prefix, label)


def difference_chart(rows_by_backend: Mapping[str, Sequence[FigureRow]], lang: Lang) -> str:
    """Improvement in percentage points with its interval, a row a metric, a mark a backend; empty where none."""
    t = texts(lang)
    table = {
        backend: {r.metric: r for r in rows if r.unit == "share" and r.improvement and r.metric != "retrieved_right"}
        for backend, rows in rows_by_backend.items()
    }
    labels = {metric: row.label for rows in table.values() for metric, row in rows.items()}
    if not labels:
        return ""
    order = list(labels)

    def paint(axes: Axes) -> None:
        gap = 0.5 / max(len(table), 1)
        for number_, (backend, rows) in enumerate(table.items()):
            colour, marker = ((FIRST, "o"), (SECOND, "s"))[number_ % 2]
            offset = (number_ - (len(table) - 1) / 2) * gap
            for metric, row in rows.items():
                value, lo, hi = row.improvement or (0.0, 0.0, 0.0)
                y = order.index(metric) + offset
                axes.plot([lo * 100, hi * 100], [y, y], color=colour, linewidth=2.2, solid_capstyle="round")
                axes.plot([value * 100], [y], marker=marker, color=colour, markersize=6, linestyle="none")
            axes.plot([], [], marker=marker, color=colour, linewidth=2.2, label=backend_name(backend))
        axes.axvline(0, color=INK, linewidth=1.0)
        axes.set_yticks(range(len(order)), [labels[metric] for metric in order])
        axes.set_ylim(len(order) - 0.4, -0.6)
        axes.tick_params(length=0)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(t("chart_diff_axis"))
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)

    return _draw(0.95 + 0.36 * len(order), "diff", t("chart_diff_alt"), paint)


def _series(rows: Any, key: str = "loss") -> tuple[list[float], list[float]]:
    points = [(number(row.get("step")), number(row.get(key))) for row in as_rows(rows)]
    kept = [(x, y) for x, y in points if x is not None and y is not None]
    return [x for x, _ in kept], [y for _, y in kept]


def loss_chart(training: Mapping[str, Any], lang: Lang) -> str:
    """Loss of the training and the hold-out rows by step; empty where neither was recorded."""
    t = texts(lang)
    train, holdout = _series(training.get("history")), _series(training.get("eval_history"))
    if not train[0] and not holdout[0]:
        return ""

    def paint(axes: Axes) -> None:
        if train[0]:
            axes.plot(*train, color=FIRST, linewidth=1.8, marker="." if len(train[0]) < 3 else "", label=t("train"))
        if holdout[0]:
            axes.plot(*holdout, color=SECOND, linewidth=1.8, marker="s", markersize=5, label=t("holdout"))
        best = number(training.get("best_step"))
        if best is not None:
            axes.axvline(best, color=INK, linewidth=1.0, linestyle=(0, (3, 3)), label=t("best_step"))
        axes.set_ylim(bottom=0)
        axes.set_xlabel(t("chart_step"))
        axes.set_ylabel(t("chart_loss"))
        axes.legend(loc="upper right")

    return _draw(2.9, "loss", t("chart_loss_alt"), paint)


def time_chart(stages: Sequence[Stage], lang: Lang) -> str:
    """Seconds of each stage in the order in which they started; a failed one in the warning colour."""
    t = texts(lang)
    if not stages:
        return ""

    def paint(axes: Axes) -> None:
        colours = [FIRST if stage.status == "ok" else BAD for stage in stages]
        bars = axes.barh(range(len(stages)), [stage.seconds for stage in stages], color=colours, height=0.62)
        axes.bar_label(bars, labels=[f"{stage.seconds:,.0f}" for stage in stages], padding=4)
        axes.set_yticks(range(len(stages)), [_drawable(stage_label(stage.name, lang)) for stage in stages])
        axes.set_ylim(len(stages) - 0.4, -0.6)
        axes.set_xlim(0, max(max(stage.seconds for stage in stages) * 1.12, 1.0))
        axes.tick_params(length=0)
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(t("chart_seconds"))

    return _draw(0.75 + 0.33 * len(stages), "time", t("chart_time_alt"), paint)


def _drawable(name: str) -> str:
    """A stage name from a file as plain text: `$` starts a formula in matplotlib."""
    return re.sub(r"[^\w가-힣 .-]", "?", name)[:32]
