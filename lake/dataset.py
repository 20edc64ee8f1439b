"""A dataset version on disk: written whole, named by its content, verifiable by itself.

Writes `data/datasets/<version>/`: train and holdout as .jsonl ({"prompt", "completion"}), .chat.jsonl
(conversational) and .dpo.jsonl (preference pairs), rows.parquet (lineage), rejects.jsonl, retrieval_failures.jsonl,
test_shingles.parquet (hashes of the test questions, not their text), certificate.json, README.md and manifest.json.
The version is the first 16 hex digits of a sha256 over inputs, config and content: same inputs, same version, same
bytes, whatever their order. Table versions stand in the manifest but not in the hash: a table that was compacted holds
the same rows. Rows are streamed; only their short columns are held. `verify` re-derives every hash and the
certificate from the files alone.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import orjson
import polars as pl
import pyarrow as pa

from lake.dataset_card import render_card
from lake.dataset_facts import FACT_COLUMNS, row_facts, short_columns
from lake.dataset_files import (
    CONTENT,
    FORMS,
    SIDE_COLUMNS,
    HashedFile,
    RowFiles,
    check_forms,
    in_groups,
    jsonl,
    read_rows,
    read_test_shingles,
    side_of,
    table_of_tests,
    to_parquet,
)
from lake.errors import DatasetError
from lake.files import canonical_json, fsync_dir, read_json, require_free_disk, sha256_bytes, sha256_file
from lake.redacted import original_of
from lake.rules.certificate import SideRows, certify
from lake.schemas.rows import SPLITS, RetrievalFailure
from lake.withdrawn import require_kept

MANIFEST = "manifest.json"
SCHEMA = 2  # of the folder; 1 had no pairs, no retrieval failures and no generations, and is still read
SAMPLE_CHARS = 500
ROW_FILES = ("rows.parquet", *(f"{split}.{form}" for split in SPLITS for form in FORMS))
TEMPORARY = ".new."  # what a crash can leave beside the versions
_REJECTS_A_WRITE = 50_000


@dataclass(frozen=True)
class Dataset:
    """A version on disk; `reused` says that it was there already."""

    version: str
    path: Path
    manifest: dict[str, Any]
    reused: bool = False

    def file(self, split: str, chat: bool = False) -> Path:
        """The JSON Lines file of a split."""
        return self.path / f"{split}{'.chat' if chat else ''}.jsonl"


def _version(manifest: Mapping[str, Any], hashes: Mapping[str, str]) -> str:
    content = {name: value for name, value in hashes.items() if name not in (MANIFEST, "README.md")}
    inputs = dict(manifest["inputs"])
    if manifest["schema"] > 1:
        inputs.pop("tables", None)
    named = {"inputs": inputs, "config": manifest["config"], "content": content}
    return sha256_bytes(canonical_json(named))[:16]


def _require_train_rows(trained: int, drops: Mapping[str, int]) -> None:
    if trained:
        return
    most = sorted(drops.items(), key=lambda one: (-one[1], one[0]))[:5]
    reasons = ", ".join(f"{name} {n}" for name, n in most)
    raise DatasetError(
        f"No row is left to train on (dropped: {reasons or 'nothing, there was no row'}): send questions to "
        "the gateway, import golden answers for them, run ingest, then build again; a reason that ends in _share or "
        "_cap is a limit of the dataset config.",
        drops=dict(drops),
    )


def _certificate(table: pa.Table, test: SideRows, config: Mapping[str, Any]) -> dict[str, Any]:
    sides = {split: side_of(table, split) for split in SPLITS}
    return certify({**sides, "test": test}, float(config["near_duplicate_threshold"]))


class _NewFolder:
    """The files of a version while they are written, in a hidden folder beside the others."""

    def __init__(self, datasets_dir: Path) -> None:
        datasets_dir.mkdir(parents=True, exist_ok=True)
        self.path = datasets_dir / f"{TEMPORARY}{secrets.token_hex(4)}.tmp"
        self.path.mkdir()
        self.files: dict[str, HashedFile] = {}

    def open(self, name: str) -> HashedFile:
        """A new file of the version, hashed while it is written."""
        self.files[name] = HashedFile(self.path / name)
        return self.files[name]

    def put(self, name: str, data: bytes) -> None:
        """A whole file."""
        self.open(name).write(data)

    def place(self, target: Path) -> None:
        """Everything on disk, then the folder under its name."""
        for file in self.files.values():
            file.handle.flush()
            os.fsync(file.handle.fileno())
        fsync_dir(self.path)
        self.path.rename(target)
        fsync_dir(target.parent)

    def hashes(self) -> dict[str, str]:
        """sha256 by file."""
        return {name: file.facts()["sha256"] for name, file in self.files.items()}


@contextmanager
def _new_folder(datasets_dir: Path) -> Iterator[_NewFolder]:
    """Gone at the end unless it was placed."""
    folder = _NewFolder(datasets_dir)
    try:
        yield folder
    finally:
        for file in folder.files.values():
            file.handle.close()
        shutil.rmtree(folder.path, ignore_errors=True)


def write_dataset(
    datasets_dir: Path,
    parts: Iterable[pa.Table],
    rejects: pl.DataFrame,
    test_questions: Sequence[str],
    inputs: Mapping[str, Any],
    config: Mapping[str, Any],
    failures: Sequence[RetrievalFailure] = (),
) -> Dataset:
    """Write a version, or reuse the one that is there. Safe to retry; a crash leaves only a hidden folder.

    `parts` are tables of `CONTENT`, sorted by row id over all of them; `rejects` has source_id, reason and sample.
    `inputs` names what was read (table versions, sha256 of the test questions, prompt facts, template); `config`
    must hold `seed` and `near_duplicate_threshold`. Raises `DatasetError` where there is no row to train on or the
    sides touch, `DiskSpaceError` where the disk is full.
    """
    drops = {str(reason): int(n) for reason, n in rejects.group_by("reason").len().iter_rows()}
    with _new_folder(datasets_dir) as folder:
        rows = _write_rows(folder, parts)
        _require_train_rows(int((rows["split"] == "train").sum()), drops)
        _write_rejects(folder.open("rejects.jsonl"), rejects)
        ordered = sorted(failures, key=lambda one: (one.request_id, one.label_source))
        folder.put("retrieval_failures.jsonl", jsonl(asdict(one) for one in ordered))
        test = table_of_tests(test_questions)
        folder.put("test_shingles.parquet", to_parquet(test))
        certificate = _certificate(rows.select(SIDE_COLUMNS).to_arrow(), read_test_shingles(test), config)
        _require_disjoint(certificate)
        folder.put("certificate.json", _pretty(certificate))
        manifest: dict[str, Any] = {
            "schema": SCHEMA,
            "inputs": dict(inputs),
            "config": dict(config),
            "seed": config["seed"],
            **row_facts(rows, drops, len(ordered)),
            "certificate": {"disjoint": True, "threshold": certificate["threshold"]},
        }
        version = manifest["version"] = _version(manifest, folder.hashes())
        target = datasets_dir / version
        if target.exists():
            verify(target)
            return Dataset(version, target, read_json(target / MANIFEST), reused=True)
        folder.put("README.md", render_card(manifest, certificate, folder.hashes()).encode())
        manifest["files"] = {name: file.facts() for name, file in sorted(folder.files.items())}
        folder.put(MANIFEST, _pretty(manifest))
        folder.place(target)
    return Dataset(version, target, manifest)


def _write_rows(folder: _NewFolder, parts: Iterable[pa.Table]) -> pl.DataFrame:
    """The row files; what manifest and certificate need of the rows."""
    files = RowFiles({name: folder.open(name) for name in ROW_FILES})
    held = [_short(cast(Any, CONTENT).empty_table())]
    for part in in_groups(parts):
        require_free_disk(folder.path, 4 * cast(Any, part).nbytes + (1 << 20), "The dataset")
        files.write(part)
        held.append(_short(part))
    files.close()
    return pl.concat(held)


def _short(part: Any) -> pl.DataFrame:
    return short_columns(cast(pl.DataFrame, pl.from_arrow(part.select(list(FACT_COLUMNS)))))


def _write_rejects(file: HashedFile, rejects: pl.DataFrame) -> None:
    ordered = rejects.with_columns(pl.col("sample").fill_null("").str.slice(0, SAMPLE_CHARS)).sort(
        "reason", "source_id", "sample"
    )
    for part in ordered.select("source_id", "reason", "sample").iter_slices(_REJECTS_A_WRITE):
        file.write(jsonl(part.iter_rows(named=True)))


def _require_disjoint(certificate: Mapping[str, Any]) -> None:
    if not certificate["disjoint"]:
        touching = [name for name, pair in certificate["pairs"].items() if not pair["disjoint"]]
        raise DatasetError(
            f"The sides of the dataset touch ({', '.join(touching)}), so it is not written: keep the folder splits "
            "and report it with the certificate in this error, it is a fault of the split.",
            certificate=certificate,
        )


def _pretty(value: Any) -> bytes:
    option = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS
    return orjson.dumps(value, option=option)


def _broken(path: Path, why: str) -> DatasetError:
    return DatasetError(
        f"The dataset {path} can't be used: {why}. Delete the folder and build again (the same inputs give "
        "the same version).",
        path=str(path),
    )


def read_dataset(path: Path) -> Dataset:
    """Open a version and check every file's size and sha256. Raises `DatasetError`, which says what to do, among them
    `WithdrawnError` where rows of it were erased.
    """
    require_kept(path)
    if not path.is_dir():
        raise DatasetError(f"There is no dataset at {path}: run the build first.", path=str(path))
    try:
        manifest = orjson.loads((path / MANIFEST).read_bytes())
        listed = {name: (one["sha256"], one["bytes"]) for name, one in manifest["files"].items()}
        version, _ = manifest["version"], _version(manifest, {})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _broken(path, f"its {MANIFEST} is missing or unreadable ({error})") from error
    hashes: dict[str, str] = {}
    for name, (sha256, size) in listed.items():
        if Path(name).name != name:
            raise _broken(path, f"its manifest lists a path, {name!r}")
        try:
            found, size_now = sha256_file(path / name), (path / name).stat().st_size
        except OSError as error:
            raise _broken(path, f"{name} is missing or unreadable") from error
        hashes[name], length = original_of(path, name, found, size_now)
        if (hashes[name], length) != (sha256, size):
            raise _broken(path, f"{name} is not what was written (its sha256 differs from the manifest's)")
    if extra := {one.name for one in path.iterdir()} - set(listed) - {MANIFEST}:
        raise _broken(path, f"it holds files that its manifest does not list ({', '.join(sorted(extra))})")
    if _version(manifest, hashes) != version or path.name != version:
        raise _broken(path, "its content does not hash to its version")
    return Dataset(version, path, manifest, reused=True)


def verify(path: Path) -> dict[str, Any]:
    """Re-derive hashes, counts, the agreement of all forms, and the certificate. Raises `DatasetError`."""
    dataset = read_dataset(path)
    if why := check_forms(path, dataset.manifest["schema"]):
        raise _broken(path, why)
    table = read_rows(path, SIDE_COLUMNS)
    test = read_test_shingles(path / "test_shingles.parquet")
    certificate = _certificate(table, test, dataset.manifest["config"])
    if not certificate["disjoint"] or _pretty(certificate) != (path / "certificate.json").read_bytes():
        raise _broken(path, "its certificate of disjointness does not follow from its rows")
    return {
        "version": dataset.version,
        "files": len(dataset.manifest["files"]),
        "rows": len(table),
        "disjoint": certificate["disjoint"],
        "max_jaccard": {name: pair["max_jaccard"] for name, pair in certificate["pairs"].items()},
    }
