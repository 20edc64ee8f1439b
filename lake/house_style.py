"""The house style of answers: recommendation, reason, link; or that no tool suits. Pure: render and parse.

The golden answers are written in it, the evaluation parses it, and the synthesis renders it; it is one module
so that the three can't drift apart.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

LABELS = {
    "ko": {"name": "추천", "reason": "이유", "link": "링크", "none": "적합한 도구 없음"},
    "en": {"name": "Recommendation", "reason": "Reason", "link": "Link", "none": "no suitable tool"},
}


@dataclass(frozen=True, slots=True)
class HouseAnswer:
    """A parsed answer; `name` is None where it says that no tool suits."""

    lang: str
    name: str | None
    reason: str
    url: str | None


def render(lang: str, name: str | None, reason: str, url: str | None) -> str:
    """The answer's text; `url` is left out where there is none."""
    label = LABELS[lang]
    lines = [f"{label['name']}: {name if name is not None else label['none']}", f"{label['reason']}: {reason}"]
    if name is not None and url:
        lines.append(f"{label['link']}: {url}")
    return "\n".join(lines)


def _line(label: str, text: str) -> str | None:
    match = re.search(rf"^{re.escape(label)}\s*:\s*(.+)$", text, flags=re.MULTILINE)
    return match.group(1).strip() if match else None


def parse(text: str) -> HouseAnswer | None:
    """The answer's parts where the whole text is in house style, else None.

    Strict on purpose (it is a metric): the labels in order, a line each, nothing before, between or after.
    """
    lines = [line for line in text.strip().split("\n") if line.strip()]
    for lang, label in LABELS.items():
        name, reason = _line(label["name"], lines[0] if lines else ""), None
        if name is None or len(lines) not in (2, 3):
            continue
        reason = _line(label["reason"], lines[1])
        if reason is None:
            return None
        if name == label["none"]:
            return HouseAnswer(lang, None, reason, None) if len(lines) == 2 else None
        url = _line(label["link"], lines[2]) if len(lines) == 3 else None
        if len(lines) == 3 and url is None:
            return None
        return HouseAnswer(lang, name, reason, url)
    return None
