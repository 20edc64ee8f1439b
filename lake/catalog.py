"""A catalogue of tools from JSONL, CSV or Parquet; at least name and description. Bad rows are reported, not
fatal.

Reads one file, streaming: `load_catalog` keeps the tools in a list, `spool_catalog` in a mapped file beside the
index (900,000 rows are possible). Invariant: every row of the file is a tool or a `RowReject` with its line number
and reason; ids are unique; texts are NFC.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from lake.catalog_files import BadRow, read_rows
from lake.errors import CatalogError
from lake.files import canonical_json
from lake.schemas.rows import Tool
from lake.text import nfc
from lake.tool_table import ToolTable, write_tools

MAX_TEXT_CHARS = 20_000
MAX_ID_CHARS = 200
_FIELDS = (
    "id",
    "name",
    "description",
    "url",
    "category",
    "tags",
    "aliases",
    "description_ko",
    "description_en",
)
_LIST_SPLIT = re.compile(r"[,;]")
_NOT_SLUG = re.compile(r"[\W_]+")
_FORBIDDEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class RowReject:
    """A row that is left out. `line`: 1-based line of the file (Parquet: row)."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class CatalogLoad:
    """`version` follows from the set of tools: the order of rows does not change it."""

    tools: Sequence[Tool]
    rejects: list[RowReject]
    version: str
    ignored_columns: dict[str, int] = field(default_factory=dict[str, int])  # columns not used, with rows


def load_catalog(path: Path) -> CatalogLoad:
    """Read a catalogue into memory. Raises `CatalogError` where the file can't be read or has no good row."""
    found = _Found()
    drafts = list(_drafts(path, found))
    found.require_tools(path)
    tools = list(_with_ids(drafts, found.given))
    return CatalogLoad(tools, found.rejects, catalog_version(tools), dict(found.ignored))


def spool_catalog(path: Path, folder: Path) -> CatalogLoad:
    """`load_catalog` for large catalogues: the tools lie in a new file of `folder`, mapped, and cost no memory until
    they are read. The caller removes the folder after use. Raises `CatalogError`.
    """
    found = _Found()
    raw = folder / "catalog-raw.arrow"
    write_tools(raw, _drafts(path, found))
    found.require_tools(path)
    if found.derived:  # a row without an id gets one when all given ids are known
        write_tools(folder / "catalog.arrow", _with_ids(ToolTable(raw), found.given))
        raw.unlink()
    else:
        raw.rename(folder / "catalog.arrow")
    tools = ToolTable(folder / "catalog.arrow")
    return CatalogLoad(tools, found.rejects, catalog_version(tools), dict(found.ignored))


@dataclass(slots=True)
class _Found:
    """What is known beside the tools when the file has been read."""

    rejects: list[RowReject] = field(default_factory=list[RowReject])
    ignored: Counter[str] = field(default_factory=Counter[str])
    given: set[str] = field(default_factory=set[str])
    derived: int = 0  # tools whose id is to follow from the name

    def require_tools(self, path: Path) -> None:
        if self.given or self.derived:
            return
        bad = self.rejects
        first = f" The first of {len(bad)} bad rows is line {bad[0].line}: {bad[0].reason}." if bad else ""
        raise CatalogError(
            f"{path} has no usable row.{first} Each row needs at least a name and a description.", rejects=len(bad)
        )


def _drafts(path: Path, found: _Found) -> Iterator[Tool]:
    """The good rows as tools, those without an id with an empty one; fills `found`."""
    for line, row in read_rows(path):
        try:
            if isinstance(row, BadRow):
                raise _RowError(row.reason)
            tool = _draft(row)
            if tool.id and tool.id in found.given:
                raise _RowError(f"duplicate id {tool.id!r}")
        except _RowError as error:
            found.rejects.append(RowReject(line, str(error)))
            continue
        found.ignored.update(key for key in row if key not in _FIELDS)
        if tool.id:
            found.given.add(tool.id)
        else:
            found.derived += 1
        yield tool


def catalog_version(tools: Iterable[Tool]) -> str:
    """Hex sha256 of the sorted sha256 of each tool's canonical JSON: 32 bytes a tool are held, not the tools."""
    digests = sorted(hashlib.sha256(canonical_json(tool)).digest() for tool in tools)
    return hashlib.sha256(b"".join(digests)).hexdigest()


def slug(name: str) -> str:
    """Lower-case letters (Hangul kept) and digits of a name, joined by hyphens; `tool` where none are
    left.
    """
    return _NOT_SLUG.sub("-", nfc(name).lower()).strip("-")[:MAX_ID_CHARS].strip("-") or "tool"


class _RowError(ValueError):
    """Why a row is left out."""


def _draft(row: Mapping[str, Any]) -> Tool:
    texts = {key: _text(row, key) for key in ("id", "name", "description", "url", "category")}
    korean, english = _text(row, "description_ko"), _text(row, "description_en")
    if not texts["name"]:
        raise _RowError("no name")
    description = texts["description"] or korean or english
    if not description:
        raise _RowError("no description")
    if len(texts["id"]) > MAX_ID_CHARS:
        raise _RowError(f"id is longer than {MAX_ID_CHARS} characters")
    _check_url(texts["url"])
    return Tool(
        id=texts["id"],
        name=texts["name"],
        description=description,
        url=texts["url"],
        category=texts["category"],
        tags=_list(row, "tags"),
        aliases=_list(row, "aliases"),
        description_ko=korean,
        description_en=english,
    )


def _clean(key: str, value: str) -> str:
    if len(value) > MAX_TEXT_CHARS:
        raise _RowError(f"{key} is longer than {MAX_TEXT_CHARS} characters")
    if _FORBIDDEN.search(value):
        raise _RowError(f"{key} is not text (control characters, or not UTF-8)")
    return nfc(value).strip()


def _text(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _RowError(f"{key} is not text but {type(value).__name__}")
    return _clean(key, value)


def _list(row: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = row.get(key)
    if value is None:
        return ()
    if isinstance(value, str):
        parts = _LIST_SPLIT.split(_clean(key, value))
    elif isinstance(value, list) and all(isinstance(part, str) for part in cast("list[object]", value)):
        parts = cast("list[str]", value)
        if sum(map(len, parts)) > MAX_TEXT_CHARS:
            raise _RowError(f"{key} is longer than {MAX_TEXT_CHARS} characters")
        parts = [_clean(key, part) for part in parts]
    else:
        raise _RowError(f"{key} is neither a list of texts nor text separated by commas")
    return tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))


def _check_url(url: str) -> None:
    if not url:
        return
    try:
        parts = urlsplit(url)
        good = parts.scheme.lower() in ("http", "https") and bool(parts.hostname) and not re.search(r"\s", url)
    except ValueError:
        good = False
    if not good:
        raise _RowError(f"url {url[:80]!r} is not an http or https address")


def _with_ids(drafts: Iterable[Tool], given: set[str]) -> Iterator[Tool]:
    """Ids for the rows without one, after all given ids are known, so that a given id is never pushed
    aside.
    """
    taken = set(given)
    following: dict[str, int] = {}
    for draft in drafts:
        if draft.id:
            yield draft
            continue
        base = slug(draft.name)
        candidate, number = base, following.get(base, 1)
        while candidate in taken:
            number += 1
            candidate = f"{base}-{number}"
        following[base] = number
        taken.add(candidate)
        yield replace(draft, id=candidate)
