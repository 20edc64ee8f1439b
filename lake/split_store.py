"""The book of the split on disk: `data/datasets/splits/`, Parquet without readable text.

Holds decisions-*.parquet (key, side, cluster and reason of every question: 26 bytes each), shingles-*.parquet (their
n-gram hashes, one file a build that decided anything, read only where something new has to be compared) and
book.json, which names the files with their sha256 and is replaced in one step: the commit. A file that it does not
name is left over from a killed build and goes with the next save. Invariants: a side once saved never changes; same
book, same bytes; what `forget` was given is in no file when it returns. splits.json of earlier versions (it held
the questions) is read once and removed after the first save. Hashes of n-grams can be guessed: the book is
pseudonymous, not anonymous, so it is erased from like everything else.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from lake.errors import DatasetError
from lake.files import fsync_dir, sha256_bytes, write_bytes_atomic
from lake.rules.book import REASONS, SplitBook
from lake.rules.keys import Keys, find, from_hex, to_bytes
from lake.rules.shingles import I64, SHINGLING, Shingles, concatenate, from_rows, offsets_of, shingle_normalised

FOLDER = "splits"
MANIFEST = "book.json"
FORMER = "splits.json"  # one JSON file with the normalised questions
VERSION = 2
MANY_PARTS = 16  # files of shingles; more are written together into one

_DECISIONS = pa.schema(
    [
        pa.field("key", pa.binary(16), nullable=False),
        pa.field("holdout", pa.bool_(), nullable=False),
        pa.field("cluster", pa.uint64(), nullable=False),
        pa.field("blocked", pa.uint8(), nullable=False),
    ]
)
_SHINGLES = pa.schema(
    [
        pa.field("key", pa.binary(16), nullable=False),
        pa.field("shingles", pa.large_list(pa.field("item", pa.uint32(), nullable=False)), nullable=False),
    ]
)


@contextmanager
def one_at_a_time(datasets_dir: Path) -> Iterator[None]:
    """Two builds that decide splits at once could decide differently; the second waits for the first."""
    datasets_dir.mkdir(parents=True, exist_ok=True)
    with (datasets_dir / ".lock").open("ab") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _broken(path: Path, why: object) -> DatasetError:
    return DatasetError(
        f"{path} can't be read ({why}): restore it from a backup; without it a later build could move "
        "held-out questions into training. Delete it only together with all datasets and adapters.",
        path=str(path),
    )


def _key_column(keys: Keys) -> pa.Array:
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(keys), [None, pa.py_buffer(to_bytes(keys))])


def _keys(column: pa.ChunkedArray) -> Keys:
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], pa.binary(16))
    start = array.offset * 16
    data = array.buffers()[1]
    raw = data.to_pybytes()[start : start + 16 * len(array)] if data is not None else b""
    return np.frombuffer(raw, dtype="S16")


class SplitStore:
    """The book of one folder of datasets. Safe against kills; whoever loads to save holds `one_at_a_time`."""

    def __init__(self, datasets_dir: Path) -> None:
        self._datasets_dir = datasets_dir
        self.folder = datasets_dir / FOLDER
        self._former = datasets_dir / FORMER

    def load(self) -> SplitBook:
        """The decisions of earlier builds; empty where there are none. Raises `DatasetError` if unreadable."""
        manifest = self._manifest()
        if manifest is None:
            return self._from_former() if self._former.exists() else SplitBook()
        self._former.unlink(missing_ok=True)  # saved in the new form: no text stays behind
        table = self._read(manifest["decisions"], _DECISIONS)
        keys = _keys(table.column("key"))
        blocked = table.column("blocked").to_numpy().astype(np.uint8)
        if bool((keys[1:] <= keys[:-1]).any()) or bool((blocked >= len(REASONS)).any()):
            raise _broken(self.folder / manifest["decisions"]["name"], "its rows are out of order or unknown")

        def load() -> tuple[Shingles, I64]:
            return self._shingles(keys, manifest["shingles"])

        return SplitBook(
            keys,
            table.column("holdout").to_numpy(zero_copy_only=False),
            table.column("cluster").to_numpy(),
            blocked,
            float(manifest["threshold"]),
            str(manifest["tests"]),
            load,
        )

    def save(self, book: SplitBook) -> None:
        """Make the book durable; a kill leaves the old one or the new one. Safe to retry."""
        manifest = self._manifest()
        parts = [] if manifest is None else list(manifest["shingles"])
        if len(parts) >= MANY_PARTS:
            parts = [self._write_shingles(book.keys, book.shingles)]
        elif len(book.added) or not parts:
            parts.append(self._write_shingles(book.added, book.added_shingles))
        self._commit(book, parts)

    def forget(self, keys: Sequence[str]) -> int:
        """Remove questions (hex `question_key`s, the first 32 digits are enough) from every file; how many were there.

        The others of their clusters keep their side. Waits for a build that runs (not to be called by one). Safe to
        retry. Raises `DatasetError` if the book is unreadable.
        """
        with one_at_a_time(self._datasets_dir):
            return self._forget(keys)

    def _forget(self, keys: Sequence[str]) -> int:
        book = self.load()
        wanted = np.unique(from_hex(keys)) if keys else from_hex([])
        at, there = find(book.keys, wanted)
        if there.any():
            keep = np.setdiff1d(np.arange(len(book)), at[there])
            left = SplitBook(
                book.keys[keep], book.holdout[keep], book.clusters[keep], book.blocked[keep], book.threshold, book.tests
            )
            self._commit(left, [self._write_shingles(left.keys, book.shingles.take(keep))])
        else:
            self._sweep()  # an earlier try may have died between commit and removal
        return int(there.sum())

    def files(self) -> list[Path]:
        """Every file of the book, for a byte search."""
        return sorted(path for path in self.folder.glob("*") if path.is_file())

    def _manifest(self) -> dict[str, Any] | None:
        path = self.folder / MANIFEST
        if not path.exists():
            return None
        try:
            manifest = orjson.loads(path.read_bytes())
            if manifest["version"] != VERSION or manifest["shingling"] != SHINGLING:
                raise ValueError(f"version {manifest['version']}, shingling {manifest['shingling']}")
            for part in [manifest["decisions"], *manifest["shingles"]]:
                if Path(part["name"]).name != part["name"] or len(part["sha256"]) != 64:
                    raise ValueError(f"{part['name']!r} is no file of a book")
            float(manifest["threshold"])
            str(manifest["tests"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise _broken(path, error) from error
        return manifest

    def _read(self, part: dict[str, Any], schema: pa.Schema) -> pa.Table:
        path = self.folder / part["name"]
        try:
            data = path.read_bytes()
            if sha256_bytes(data) != part["sha256"]:
                raise ValueError("its sha256 is not the one in book.json")
            table = pq.read_table(pa.BufferReader(data))
            if not table.schema.equals(schema):
                raise ValueError("other columns than this version writes")
        except (OSError, ValueError, pa.ArrowException) as error:
            raise _broken(path, error) from error
        return table

    def _shingles(self, keys: Keys, parts: Sequence[dict[str, Any]]) -> tuple[Shingles, I64]:
        """All sets, and where those of these keys are."""
        found: list[Keys] = []
        sets: list[Shingles] = []
        for part in parts:
            table = self._read(part, _SHINGLES)
            found.append(_keys(table.column("key")))
            lists = pa.concat_arrays(table.column("shingles").chunks) if len(table) else pa.array([], _SHINGLES[1].type)
            sizes = np.diff(lists.offsets.to_numpy()).astype(np.int64)
            sets.append(Shingles(lists.flatten().to_numpy(), offsets_of(sizes)))
        every = np.concatenate(found) if found else from_hex([])
        order = np.argsort(every, kind="stable")
        at, there = find(every[order], keys)
        if not there.all():
            raise _broken(self.folder, f"the shingles of {int((~there).sum())} questions are missing")
        return concatenate(sets), order[at]

    def _write(self, kind: str, table: pa.Table) -> dict[str, Any]:
        sink = BytesIO()
        pq.write_table(table, sink, compression="zstd", compression_level=3)
        data = sink.getvalue()
        sha256 = sha256_bytes(data)
        name = f"{kind}-{sha256[:16]}.parquet"  # named by content: writing it again is no change
        write_bytes_atomic(self.folder / name, data)
        return {"name": name, "sha256": sha256, "rows": table.num_rows}

    def _write_shingles(self, keys: Keys, shingles: Shingles) -> dict[str, Any]:
        lists = pa.LargeListArray.from_arrays(
            pa.array(shingles.offsets), pa.array(shingles.hashes), type=_SHINGLES.field("shingles").type
        )
        return self._write("shingles", pa.Table.from_arrays([_key_column(keys), lists], schema=_SHINGLES))

    def _commit(self, book: SplitBook, parts: Sequence[dict[str, Any]]) -> None:
        columns = [
            _key_column(book.keys), pa.array(book.holdout), pa.array(book.clusters), pa.array(book.blocked),
        ]  # fmt: skip
        manifest = {
            "version": VERSION,
            "shingling": SHINGLING,
            "threshold": book.threshold,
            "tests": book.tests,
            "questions": len(book),
            "decisions": self._write("decisions", pa.Table.from_arrays(columns, schema=_DECISIONS)),
            "shingles": list(parts),
        }
        option = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE
        write_bytes_atomic(self.folder / MANIFEST, orjson.dumps(manifest, option=option))
        self._sweep()

    def _sweep(self) -> None:
        """Remove what book.json does not name, and the former book, which the new one replaces."""
        manifest = self._manifest()
        if manifest is None:
            return
        named = {MANIFEST, manifest["decisions"]["name"], *(part["name"] for part in manifest["shingles"])}
        for path in self.files():
            if path.name not in named:
                path.unlink()
        fsync_dir(self.folder)
        if self._former.exists():
            self._former.unlink()
            fsync_dir(self._former.parent)

    def _from_former(self) -> SplitBook:
        """The book of earlier versions, with every side and cluster as it was."""
        try:
            value = orjson.loads(self._former.read_bytes())
            if value["version"] != 1:
                raise ValueError(f"version {value['version']}")
            rows = sorted((key, one["side"], one["cluster_id"], one["text"]) for key, one in value["decisions"].items())
            if any(side not in ("train", "holdout") for _, side, _, _ in rows):
                raise ValueError("a side is neither train nor holdout")
            keys = from_hex([key for key, *_ in rows])
            clusters = np.array([int(name.removeprefix("c-")[:16], 16) for _, _, name, _ in rows], dtype=np.uint64)
            shingles = shingle_normalised([text for *_, text in rows]) if rows else from_rows([])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise _broken(self._former, error) from error
        return SplitBook(
            keys, np.array([side == "holdout" for _, side, _, _ in rows], dtype=np.bool_), clusters,
            np.zeros(len(rows), dtype=np.uint8), 0.0, "", lambda: (shingles, np.arange(len(rows))), keys, shingles,
        )  # fmt: skip
