"""A catalogue of tools from JSONL, CSV or Parquet; at least name and description. Bad rows are reported, not
fatal.

Reads one file, streaming (900,000 rows are possible); writes nothing. Invariant: every row of the file is a
tool or a `RowReject` with its line number and reason; ids are unique; texts are NFC.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from lake.catalog_files import BadRow, read_rows
from lake.errors import CatalogError
from lake.files import canonical_json
from lake.schemas.rows import Tool
from lake.text import nfc

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
    """`version`: sha256 over the tools in the order of their ids, so the order of rows does not change it."""

    tools: list[Tool]
    rejects: list[RowReject]
    version: str
    ignored_columns: dict[str, int] = field(default_factory=dict[str, int])  # columns not used, with rows


@dataclass(slots=True)
class _Draft:
    tool: Tool
    derived: bool  # its id follows from the name


def load_catalog(path: Path) -> CatalogLoad:
    """Read a catalogue. Raises `CatalogError` where the file can't be read or has no good row."""
    drafts: list[_Draft] = []
    rejects: list[RowReject] = []
    ignored: Counter[str] = Counter()
    given: set[str] = set()
    for line, row in read_rows(path):
        try:
            if isinstance(row, BadRow):
                raise _RowError(row.reason)
            draft = _draft(row)
            if draft.tool.id and draft.tool.id in given:
                raise _RowError(f"duplicate id {draft.tool.id!r}")
        except _RowError as error:
            rejects.append(RowReject(line, str(error)))
            continue
        ignored.update(key for key in row if key not in _FIELDS)
        given.update({draft.tool.id} - {""})
        drafts.append(draft)
    if not drafts:
        first = (
            f" The first of {len(rejects)} bad rows is line {rejects[0].line}: {rejects[0].reason}." if rejects else ""
        )
        raise CatalogError(
            f"{path} has no usable row.{first} Each row needs at least a name and a description.",
            rejects=len(rejects),
        )
    tools = list(_with_ids(drafts, given))
    return CatalogLoad(tools, rejects, catalog_version(tools), dict(ignored))


def catalog_version(tools: list[Tool]) -> str:
    """Hex sha256 of the tools as canonical JSON lines, by id."""
    digest = hashlib.sha256()
    for tool in sorted(tools, key=lambda tool: tool.id):
        digest.update(canonical_json(asdict(tool)) + b"\n")
    return digest.hexdigest()


def slug(name: str) -> str:
    """Lower-case letters (Hangul kept) and digits of a name, joined by hyphens; `tool` where none are
    left.
    """
    return _NOT_SLUG.sub("-", nfc(name).lower()).strip("-")[:MAX_ID_CHARS].strip("-") or "tool"


class _RowError(ValueError):
    """Why a row is left out."""


def _draft(row: Mapping[str, Any]) -> _Draft:
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
    tool = Tool(
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
    return _Draft(tool, derived=not tool.id)


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


def _with_ids(drafts: list[_Draft], given: set[str]) -> Iterator[Tool]:
    """Ids for the rows without one, after all given ids are known, so that a given id is never pushed
    aside.
    """
    taken = set(given)
    following: dict[str, int] = {}
    for draft in drafts:
        if not draft.derived:
            yield draft.tool
            continue
        base = slug(draft.tool.name)
        candidate, number = base, following.get(base, 1)
        while candidate in taken:
            number += 1
            candidate = f"{base}-{number}"
        following[base] = number
        taken.add(candidate)
        yield Tool(**{**asdict(draft.tool), "id": candidate})
