"""Whether an answer still fits the catalogue: its tools are there, under these names, at these addresses. Pure.

Golden, synthetic and test rows for which a reason is found are `stale_catalogue`: they leave the next build and go back
to review. Tools are compared by what they are now, not by catalogue versions, so a catalogue that is rebuilt from the
same entries makes nothing stale, and neither does a new description.

    removed_tool   a tool that the answer was given for is no longer in the catalogue
    renamed_tool   it is there, but the answer calls it by no name or alias that it has now
    changed_url    the answer has an address that is not its tool's (with several tools: no tool's) any more
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import polars as pl

from lake import house_style
from lake.rules.ground import comparable_name, comparable_url
from lake.schemas.rows import Tool
from lake.spotlight import find_urls

REMOVED, RENAMED, CHANGED_URL = "removed_tool", "renamed_tool", "changed_url"
_HEAD = "|".join(label["name"] for label in house_style.LABELS.values())
_LINK = rf"\n(?:{'|'.join(label['link'] for label in house_style.LABELS.values())}): (\S+)$"
_LINK_LINE = re.compile(_LINK)


@dataclass(frozen=True)
class Catalog:
    """The tools of today by id, with what is looked up among all of them."""

    tools: Mapping[str, Tool]

    @classmethod
    def of(cls, tools: Iterable[Tool]) -> Catalog:
        return cls({tool.id: tool for tool in tools})

    @cached_property
    def names(self) -> frozenset[str]:
        """Every name and alias, comparable."""
        return frozenset(name for tool in self.tools.values() for name in names_of(tool))

    @cached_property
    def urls(self) -> frozenset[str]:
        """Every address, comparable."""
        return frozenset(comparable_url(tool.url) for tool in self.tools.values() if tool.url)


def names_of(tool: Tool) -> set[str]:
    """Name and aliases in comparable form."""
    return {comparable_name(name) for name in (tool.name, *tool.aliases) if name}


def stale_reason(tools: Sequence[str], answer: str, catalog: Catalog | Mapping[str, Tool]) -> str | None:
    """`removed_tool`, `renamed_tool` or `changed_url`, or None where the answer is still right.

    `tools`: ids that the answer was given for. Where there are none (no tool suits, or they were never noted) the name
    in an answer in house style and the addresses are looked up among all tools.
    """
    known = catalog if isinstance(catalog, Catalog) else Catalog(catalog)
    if any(tool not in known.tools for tool in tools):
        return REMOVED
    own = [known.tools[tool] for tool in dict.fromkeys(tools)]
    parsed = house_style.parse(answer)
    named = parsed.name if parsed is not None else None
    if own and not (parsed is not None and named is None):
        names = {name for tool in own for name in names_of(tool)}
        text = comparable_name(answer)
        if comparable_name(named) not in names if named is not None else not any(name in text for name in names):
            return RENAMED
    elif named is not None and comparable_name(named) not in known.names:
        return REMOVED
    link = _LINK_LINE.search(answer)  # read whole: an address in running text ends before a bracket
    if link is not None and any(comparable_url(link[1]) == comparable_url(tool.url) for tool in own):
        answer = answer[: link.start()]
        link = None
    found = {comparable_url(url) for url in find_urls(answer)}
    if own and (link is not None or len(own) == len(found) == 1):
        allowed = frozenset(comparable_url(tool.url) for tool in own)
    else:
        allowed = known.urls
    return CHANGED_URL if found - allowed else None


def stale_rows(
    frame: pl.DataFrame, catalog: Catalog | Mapping[str, Tool], *, tools: str = "tools", answer: str = "answer"
) -> pl.Series:
    """`stale_reason` of every row, as a column of texts and nulls in the frame's order.

    `tools` is a column of lists of ids, or of single ids (as `tool_id` of the synthetic rows; empty: none). Rows that
    are plainly fresh (one tool, its name and its address as they are now) are seen in columns; only the others are read
    one by one, so a row costs some 1 µs while the catalogue stands and 2 to 50 µs where it has changed.
    """
    known = catalog if isinstance(catalog, Catalog) else Catalog(catalog)
    ids = pl.col(tools)
    if frame.schema[tools] == pl.String:
        ids = pl.when(pl.col(tools) != "").then(pl.concat_list(tools))
    rows = frame.select(
        tools=ids.cast(pl.List(pl.String)), answer=pl.col(answer).cast(pl.String).fill_null("")
    ).with_row_index("row")
    doubtful = rows.filter(~_fresh(rows, known))
    reasons = [stale_reason(row["tools"] or (), row["answer"], known) for row in doubtful.iter_rows(named=True)]
    found = pl.DataFrame({"row": doubtful["row"], "stale": pl.Series(reasons, dtype=pl.String)})
    return rows.join(found, on="row", how="left", maintain_order="left").get_column("stale")


def _fresh(rows: pl.DataFrame, known: Catalog) -> pl.Series:
    """True only where `stale_reason` is None for certain."""
    wanted = rows.select(pl.col("tools").explode().drop_nulls().unique())["tools"].to_list()
    there = [known.tools[one] for one in wanted if one in known.tools]
    now = pl.DataFrame(
        {"id": [tool.id for tool in there], "name": [tool.name for tool in there], "url": [tool.url for tool in there]},
        schema={"id": pl.String, "name": pl.String, "url": pl.String},
    )
    text = pl.col("answer")
    joined = rows.with_columns(
        id=pl.when(pl.col("tools").list.len() == 1).then(pl.col("tools").list.first()),
        head=text.str.extract(rf"^(?:{_HEAD}): ([^\n]+)\n"),
        link=text.str.extract(_LINK),
        urls=text.str.count_matches("://", literal=True),
    ).join(now, on="id", how="left", maintain_order="left")
    same = (pl.col("head") == pl.col("name")) & (
        (pl.col("urls") == 0) | ((pl.col("urls") == 1) & (pl.col("link") == pl.col("url")))
    )
    return joined.select(same.fill_null(False)).to_series()
