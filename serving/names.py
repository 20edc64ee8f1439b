"""Finds catalogue names and aliases in a question, and whether the asker wants something else than that.
Pure.

A name may be typed without its spaces, in any case, and with a Korean particle after it. Invariant: a name
never matches inside a longer word of its own script ("flow" not in "workflow", "플로우" not in "워크플로우").
"""

from __future__ import annotations

import re
from functools import lru_cache

# What follows (Korean) or precedes (English) a name that is meant as the thing to leave or to compare with.
_EXCLUDED_AFTER = re.compile(
    r"^[가-힣]{0,2}\s*(말고|말구|대신|제외|빼고|외에|아닌|아니라|대안|대체|같은|처럼|비슷|보다"
    r"|쓰다가|쓰는데|쓰고 있|쓰던|에서 (갈아|옮|이전))"
    r"|^('s)?\s+(alternative|replacement|feels|is too|is getting|costs|got too|seems)",
    re.IGNORECASE,
)
_EXCLUDED_BEFORE = re.compile(
    r"(instead of|other than|alternatives? to|besides|except|rather than|than|like|similar to|replac\w+|leaving|"
    r"moving (away )?from|switch\w* from|not|tired of|outgr\w+)\s+(the |using )?$",
    re.IGNORECASE,
)


@lru_cache(maxsize=65536)
def _pattern(name: str) -> re.Pattern[str] | None:
    """A pattern for one name; None for names too short to mean anything alone."""
    chars = [re.escape(char) for char in name.lower() if not char.isspace()]
    if len(chars) < 2:
        return None
    body = r"\s*".join(chars)
    left = r"(?<![가-힣])" if re.match(r"[가-힣]", name) else r"(?<![a-z0-9])"
    right = r"" if re.search(r"[가-힣]$", name) else r"(?![a-z0-9])"
    return re.compile(left + body + right)


def find_names(question: str, names: tuple[str, ...]) -> tuple[bool, bool]:
    """(named, excluded) for one tool: any of its names occurs; every occurrence is one to get away from."""
    lowered = question.lower()
    squeezed = "".join(lowered.split())
    named = wanted = False
    for name in names:
        if "".join(name.lower().split()) not in squeezed:
            continue  # no pattern is compiled for it: in a large catalogue most names are new to the process
        pattern = _pattern(name)
        if pattern is None:
            continue
        for match in pattern.finditer(lowered):
            named = True
            before, after = lowered[: match.start()], lowered[match.end() :]
            if not (_EXCLUDED_BEFORE.search(before) or _EXCLUDED_AFTER.search(after)):
                wanted = True
    return named, named and not wanted
