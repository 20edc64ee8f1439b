"""A dataset version on disk: written whole, named by its content, verifiable by itself.

Writes `data/datasets/<version>/`: train.jsonl and holdout.jsonl ({"prompt", "completion"}), train.chat.jsonl
and holdout.chat.jsonl (conversational), rows.parquet (lineage), rejects.jsonl, test_shingles.parquet (hashes
of the test questions, not their text), certificate.json, README.md and manifest.json. The version is the
first 16 hex digits of a sha256 over inputs, config and content: same inputs, same version, same bytes,
whatever their order. `verify` re-derives every hash and the certificate from the files alone.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from lake.dataset_card import render_card
from lake.dataset_files import (
    check_forms,
    jsonl,
    read_rows,
    read_test_shingles,
    rows_table,
    side_of,
    table_of_tests,
    to_parquet,
)
from lake.errors import DatasetError
from lake.files import canonical_json, fsync_dir, require_free_disk, sha256_bytes
from lake.redacted import original_of
from lake.rules.certificate import SideRows, certify
from lake.rules.render import RenderedRow, conversational, plain
from lake.schemas.rows import Reject
from lake.withdrawn import require_kept

MANIFEST = "manifest.json"
SPLITS = ("train", "holdout")
_SAMPLE_CHARS = 500


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


def _quantiles(values: Sequence[int]) -> dict[str, int]:
    ordered = sorted(values)
    if not ordered:
        return {}
    return {
        "min": ordered[0],
        "p50": ordered[len(ordered) // 2],
        "p95": ordered[min(len(ordered) - 1, len(ordered) * 95 // 100)],
        "max": ordered[-1],
        "sum": sum(ordered),
    }


def _facts(rows: Sequence[RenderedRow], rejects: Sequence[Reject]) -> dict[str, Any]:
    """Counts and shares for manifest and card."""
    languages = Counter(one.row.lang for one in rows)
    return {
        "counts": {
            "rows": len(rows),
            **{split: sum(one.row.split == split for one in rows) for split in SPLITS},
            "clusters": len({one.row.cluster_id for one in rows}),
            "no_suitable_tool": sum(not one.row.tools for one in rows),
            "rejected": len(rejects),
        },
        "drops": dict(sorted(Counter(reject.reason for reject in rejects).items())),
        "label_sources": dict(sorted(Counter(one.row.label_source for one in rows).items())),
        "languages": {lang: round(n / len(rows), 4) for lang, n in sorted(languages.items())},
        "tokens": {
            "prompt": _quantiles([one.prompt_tokens for one in rows]),
            "completion": _quantiles([one.completion_tokens for one in rows]),
        },
    }


def _version(inputs: Any, config: Any, hashes: Mapping[str, str]) -> str:
    content = {name: value for name, value in hashes.items() if name not in (MANIFEST, "README.md")}
    return sha256_bytes(canonical_json({"inputs": inputs, "config": config, "content": content}))[:16]


def _require_train_rows(rows: Sequence[RenderedRow], rejects: Sequence[Reject]) -> None:
    if any(one.row.split == "train" for one in rows):
        return
    drops = Counter(one.reason for one in rejects)
    reasons = ", ".join(f"{name} {n}" for name, n in drops.most_common(5))
    raise DatasetError(
        f"No row is left to train on (dropped: {reasons or 'nothing, there was no row'}): send questions to "
        "the gateway, import golden answers for them, run ingest, then build again.",
        drops=dict(drops),
    )


def _certificate(table: pa.Table, test: SideRows, config: Mapping[str, Any]) -> dict[str, Any]:
    sides = {split: side_of(table, split) for split in SPLITS}
    return certify({**sides, "test": test}, float(config["near_duplicate_threshold"]))


def write_dataset(
    datasets_dir: Path,
    rows: Sequence[RenderedRow],
    rejects: Sequence[Reject],
    test_questions: Sequence[str],
    inputs: Mapping[str, Any],
    config: Mapping[str, Any],
) -> Dataset:
    """Write a version, or reuse the one that is there. Safe to retry; a crash leaves only a hidden folder.

    `inputs` names what was read (table versions, sha256 of the test questions, prompt facts, template);
    `config` must hold `seed` and `near_duplicate_threshold`. Raises `DatasetError` where there is no row to
    train on or the sides touch, `DiskSpaceError` where the disk is full.
    """
    _require_train_rows(rows, rejects)
    rows = sorted(rows, key=lambda one: one.row.row_id)
    table, test = rows_table(rows), table_of_tests(test_questions)
    certificate = _certificate(table, read_test_shingles(test), config)
    if not certificate["disjoint"]:
        touching = [name for name, pair in certificate["pairs"].items() if not pair["disjoint"]]
        raise DatasetError(
            f"The sides of the dataset touch ({', '.join(touching)}), so it is not written: keep the folder splits "
            "and report it with the certificate in this error, it is a fault of the split.",
            certificate=certificate,
        )
    files = _content(rows, rejects)
    files["rows.parquet"] = to_parquet(table)
    files["test_shingles.parquet"] = to_parquet(test)
    files["certificate.json"] = _pretty(certificate)
    version = _version(inputs, config, {name: sha256_bytes(data) for name, data in files.items()})
    manifest: dict[str, Any] = {
        "schema": 1,
        "version": version,
        "inputs": dict(inputs),
        "config": dict(config),
        "seed": config["seed"],
        **_facts(rows, rejects),
        "certificate": {"disjoint": True, "threshold": certificate["threshold"]},
    }
    files["README.md"] = render_card(manifest, certificate).encode()
    manifest["files"] = {
        name: {"sha256": sha256_bytes(data), "bytes": len(data)} for name, data in sorted(files.items())
    }
    files[MANIFEST] = _pretty(manifest)
    target = datasets_dir / version
    if target.exists():
        verify(target)
        return Dataset(version, target, manifest, reused=True)
    _write_folder(target, files)
    return Dataset(version, target, manifest)


def _content(rows: Sequence[RenderedRow], rejects: Sequence[Reject]) -> dict[str, bytes]:
    """The JSON Lines files, in the order of `rows`."""
    files: dict[str, bytes] = {}
    for split in SPLITS:
        part = [one for one in rows if one.row.split == split]
        files[f"{split}.jsonl"] = jsonl(plain(one) for one in part)
        files[f"{split}.chat.jsonl"] = jsonl(conversational(one) for one in part)
    ordered = sorted(rejects, key=lambda one: (one.reason, one.source_id, one.sample))
    files["rejects.jsonl"] = jsonl(
        {"source_id": one.source_id, "reason": one.reason, "sample": one.sample[:_SAMPLE_CHARS]} for one in ordered
    )
    return files


def _pretty(value: Any) -> bytes:
    option = orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS | orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS
    return orjson.dumps(value, option=option)


def _write_folder(target: Path, files: Mapping[str, bytes]) -> None:
    """All files in a hidden folder beside `target`, synced, then renamed into place."""
    target.parent.mkdir(parents=True, exist_ok=True)
    require_free_disk(target.parent, 2 * sum(map(len, files.values())) + (1 << 20), "The dataset")
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    temporary.mkdir()
    try:
        for name, data in files.items():
            with (temporary / name).open("wb") as handle:
                handle.write(data)
                handle.flush()
                os.fsync(handle.fileno())
        fsync_dir(temporary)
        temporary.rename(target)
        fsync_dir(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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
        version, inputs, config = manifest["version"], manifest["inputs"], manifest["config"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _broken(path, f"its {MANIFEST} is missing or unreadable ({error})") from error
    hashes: dict[str, str] = {}
    for name, (sha256, size) in listed.items():
        if Path(name).name != name:
            raise _broken(path, f"its manifest lists a path, {name!r}")
        try:
            data = (path / name).read_bytes()
        except OSError as error:
            raise _broken(path, f"{name} is missing or unreadable") from error
        hashes[name], length = original_of(path, name, sha256_bytes(data), len(data))
        if (hashes[name], length) != (sha256, size):
            raise _broken(path, f"{name} is not what was written (its sha256 differs from the manifest's)")
    if extra := {one.name for one in path.iterdir()} - set(listed) - {MANIFEST}:
        raise _broken(path, f"it holds files that its manifest does not list ({', '.join(sorted(extra))})")
    if _version(inputs, config, hashes) != version or path.name != version:
        raise _broken(path, "its content does not hash to its version")
    return Dataset(version, path, manifest, reused=True)


def verify(path: Path) -> dict[str, Any]:
    """Re-derive hashes, counts, the agreement of all forms, and the certificate. Raises `DatasetError`."""
    dataset = read_dataset(path)
    table = read_rows(path)
    if why := check_forms(path, table):
        raise _broken(path, why)
    test = read_test_shingles(path / "test_shingles.parquet")
    certificate = _certificate(table, test, dataset.manifest["config"])
    if not certificate["disjoint"] or _pretty(certificate) != (path / "certificate.json").read_bytes():
        raise _broken(path, "its certificate of disjointness does not follow from its rows")
    return {
        "version": dataset.version,
        "files": len(dataset.manifest["files"]),
        "rows": table.num_rows,
        "disjoint": certificate["disjoint"],
        "max_jaccard": {name: pair["max_jaccard"] for name, pair in certificate["pairs"].items()},
    }
