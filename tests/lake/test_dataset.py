"""Dataset versions: reproducible bytes, loadable forms, and a broken one that says what to do."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import polars as pl
import pyarrow.parquet as pq
import pytest

from lake.dataset import Dataset, read_dataset, verify
from lake.dataset import write_dataset as write_parts
from lake.dataset_files import ROWS_1, content_table, in_groups, read_rows
from lake.dataset_spool import Spool
from lake.errors import DatasetError
from lake.files import canonical_json, sha256_bytes, sha256_file
from lake.prompt import PromptBuilder
from lake.rules.render import RenderedRow, render
from lake.schemas.records import RetrievedItem
from lake.schemas.rows import DatasetRow, Reject, RetrievalFailure

BUILDER = PromptBuilder(lambda text: len(text.split()), 100, 3)
CONFIG = {"seed": 1, "near_duplicate_threshold": 0.4}
INPUTS = {"tables": {"requests": 3}, "template_sha256": "ab"}
QUESTIONS = [
    "회의를 녹화해서 팀에 공유하는 도구",
    "표를 붙여 넣으면 그래프를 그려 주는 곳",
    "version control that works offline",
    "휴대폰 사진을 자동으로 백업",
]
TEST = ["영수증을 찍으면 가계부에 넣어 주는 앱", "translate a web page into Korean"]


def row(number: int, split: str = "train", **changes: Any) -> RenderedRow:
    item = RetrievedItem(
        1, 0.9, f"tool{number}", f"Tool{number}", f"https://t{number}.kr", "설명입니다.", "", [], "분류"
    )
    made = DatasetRow(
        row_id=f"row-{number}",
        question=QUESTIONS[number],
        lang="en" if number == 2 else "ko",
        retrieved_items=[item],
        answer=f"추천: Tool{number}\n이유: 맞습니다.\n링크: https://t{number}.kr",
        label_source="golden",
        source_ids=[f"q{number}", f"r{number}"],
        tools=[f"tool{number}"],
        category="분류",
        cluster_id=f"c-{number}",
        split=split,  # type: ignore[arg-type]
    )
    return render(replace(made, **changes), BUILDER)


ROWS = [
    row(0, repairs=["url"], generation=2),
    row(1, rejected="추천: 다른 것\n이유: 모릅니다."),
    row(2, "holdout"),
    row(3),
]
REJECTS = [Reject("q9", "no_label", "뭐"), Reject("q8", "ungrounded", "무" * 900), Reject("q7", "no_label", "")]


def write_dataset(
    folder: Path, rows: list[RenderedRow], rejects: list[Reject], test: list[str], inputs: Any, config: Any
) -> Dataset:
    dropped = pl.DataFrame(
        [(one.source_id, one.reason, one.sample) for one in rejects], ["source_id", "reason", "sample"], orient="row"
    )
    return write_parts(folder, [content_table(rows)], dropped, test, inputs, config, FAILURES)


def content(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


NO_REJECTS = pl.DataFrame(schema={"source_id": pl.String, "reason": pl.String, "sample": pl.String})
FAILURES = [
    RetrievalFailure("q5", "질문", "ko", ["tool9"], [{"id": "tool1", "rank": 1, "score": 0.5}], "golden", "i1", "e5")
]


def test_permuted_input_gives_the_same_version_and_bytes(tmp_path: Path) -> None:
    one = write_dataset(tmp_path / "a", ROWS, REJECTS, TEST, INPUTS, CONFIG)
    rows, rejects = ROWS[:], REJECTS[:]
    random.Random(4).shuffle(rows)
    other = write_dataset(tmp_path / "b", rows, rejects[::-1], TEST[::-1], INPUTS, CONFIG)
    assert one.version == other.version
    assert content(one.path) == content(other.path)
    assert not list(tmp_path.glob("*/.*"))  # no temporary folder is left


def test_any_change_is_another_version(tmp_path: Path) -> None:
    versions = {
        write_dataset(tmp_path, rows, rejects, test, inputs, config).version
        for rows, rejects, test, inputs, config in [
            (ROWS, REJECTS, TEST, INPUTS, CONFIG),
            (ROWS[:3], REJECTS, TEST, INPUTS, CONFIG),
            ([row(0, answer="추천: 적합한 도구 없음\n이유: 없습니다."), *ROWS[1:]], REJECTS, TEST, INPUTS, CONFIG),
            (ROWS, REJECTS[:1], TEST, INPUTS, CONFIG),
            (ROWS, REJECTS, TEST[:1], INPUTS, CONFIG),
            (ROWS, REJECTS, TEST, {**INPUTS, "template_sha256": "cd"}, CONFIG),
            (ROWS, REJECTS, TEST, INPUTS, {**CONFIG, "seed": 2}),
        ]
    }
    assert len(versions) == 7
    compacted = write_dataset(tmp_path, ROWS, REJECTS, TEST, {**INPUTS, "tables": {"requests": 4}}, CONFIG)
    assert compacted.reused  # the same rows in another table version
    assert compacted.manifest["inputs"]["tables"] == {"requests": 3}


def test_the_same_again_is_reused_and_verified(tmp_path: Path) -> None:
    first = write_dataset(tmp_path, ROWS, REJECTS, TEST, INPUTS, CONFIG)
    time = (first.path / "manifest.json").stat().st_mtime_ns
    again = write_dataset(tmp_path, ROWS, REJECTS, TEST, INPUTS, CONFIG)
    assert (first.reused, again.reused) == (False, True)
    assert (again.path / "manifest.json").stat().st_mtime_ns == time
    proof = verify(first.path)
    assert (proof["version"], proof["rows"], proof["disjoint"]) == (first.version, 4, True)
    assert set(proof["max_jaccard"]) == {"train-holdout", "train-test", "holdout-test"}


def test_the_manifest_counts_and_hashes(tmp_path: Path) -> None:
    made = write_dataset(tmp_path, ROWS, REJECTS, TEST, INPUTS, CONFIG)
    manifest = read_dataset(made.path).manifest
    assert manifest["counts"] == {
        "rows": 4, "train": 3, "holdout": 1, "clusters": 4, "no_suitable_tool": 0, "rejected": 3,
        "repaired": 1, "retrieval_failures": 1, "pairs_train": 1, "pairs_holdout": 0, "max_generation": 2,
    }  # fmt: skip
    assert manifest["generations"] == {"0": 3, "2": 1}
    assert manifest["categories"] == {"분류": 1.0}
    assert sum(manifest["token_histogram"].values()) == 4
    assert manifest["drops"] == {"no_label": 2, "ungrounded": 1}
    assert manifest["languages"] == {"en": 0.25, "ko": 0.75}
    assert manifest["label_sources"] == {"golden": 4}
    assert {name: one["sha256"] for name, one in manifest["files"].items()} == {
        name: sha256_file(made.path / name) for name in content(made.path) if name != "manifest.json"
    }
    rejected = [orjson.loads(line) for line in (made.path / "rejects.jsonl").read_bytes().splitlines()]
    assert [one["source_id"] for one in rejected] == ["q7", "q9", "q8"]
    assert max(len(one["sample"]) for one in rejected) == 500
    test_text = b"".join(data for name, data in content(made.path).items() if not name.endswith(".parquet"))
    assert TEST[0].encode() not in test_text


def test_every_form_loads_with_hugging_face_datasets(tmp_path: Path) -> None:
    import datasets

    made = write_dataset(tmp_path / "sets", ROWS, REJECTS, TEST, INPUTS, CONFIG)
    for chat in (False, True):
        files = {split: str(made.file(split, chat)) for split in ("train", "holdout")}
        loaded = datasets.load_dataset("json", data_files=files, cache_dir=str(tmp_path / "cache"))
        assert {split: part.num_rows for split, part in loaded.items()} == {"train": 3, "holdout": 1}
        assert loaded["train"].column_names == ["prompt", "completion"]
        first = loaded["holdout"][0]
        if chat:
            assert first["prompt"] == [{"role": "user", "content": ROWS[2].prompt.text}]
            assert first["completion"] == [{"role": "assistant", "content": ROWS[2].row.answer}]
        else:
            assert first == {"prompt": ROWS[2].prompt.text, "completion": ROWS[2].row.answer}
    # the card's own configurations, as the hub would read them
    card = datasets.load_dataset(str(made.path), "chat", cache_dir=str(tmp_path / "cache"))
    assert {split: part.num_rows for split, part in card.items()} == {"train": 3, "holdout": 1}
    pairs = datasets.load_dataset(str(made.path), "dpo", cache_dir=str(tmp_path / "cache"))
    pair: Any = pairs["train"][0]
    assert pair["prompt"] == [{"role": "user", "content": ROWS[1].prompt.text}]
    assert pair["chosen"][0]["content"] == ROWS[1].row.answer
    assert pair["rejected"] == [{"role": "assistant", "content": "추천: 다른 것\n이유: 모릅니다."}]


def test_parts_of_any_size_give_the_same_bytes(tmp_path: Path) -> None:
    whole = content_table(ROWS)
    cut = [whole.slice(0, 1), whole.slice(1, 0), whole.slice(1, 3)]
    folders = []
    for number, parts in enumerate(([whole], cut)):
        made = write_parts(tmp_path / str(number), parts, NO_REJECTS, TEST, INPUTS, CONFIG)
        folders.append(content(made.path))
    assert folders[0] == folders[1]
    assert [len(one) for one in in_groups(cut, 3)] == [3, 1]


def test_the_spool_sorts_whatever_comes_in_whatever_order(tmp_path: Path) -> None:
    rows = [content_table([row(n, row_id=f"row-{n * 7919 % 65536:04x}{n:012x}")]).to_pylist()[0] for n in range(4)]
    many = [
        one | {"row_id": f"row-{number * 40503 % 65536:04x}{number:012x}"} for number in range(300) for one in rows[:1]
    ]
    placed = pl.DataFrame(
        [(one["row_id"], "train", "c-1") for one in many[::2]], ["row_id", "split", "cluster_id"], orient="row"
    )
    outcomes = []
    for number, expected in enumerate((10, 10_000_000)):  # one bucket, and as many as there can be
        folder = tmp_path / str(number)
        folder.mkdir()
        spool = Spool(folder, expected)
        for one in random.Random(number).sample(many, len(many)):
            spool.add(one)
        outcomes.append([one for table in spool.tables(placed) for one in table.to_pylist()])
    assert outcomes[0] == outcomes[1]
    assert [one["row_id"] for one in outcomes[0]] == sorted(placed["row_id"])
    assert {one["split"] for one in outcomes[0]} == {"train"}


def test_the_card_says_what_a_reader_must_know(tmp_path: Path) -> None:
    made = write_dataset(tmp_path, ROWS, REJECTS, TEST, INPUTS, CONFIG)
    card = (made.path / "README.md").read_text("utf-8")
    for name, file in made.manifest["files"].items():
        assert name == "README.md" or f"| {name} | {file['sha256']} |" in card
    for piece in (
        "| no_label | 2 |",
        "█",
        "config_name: dpo",
        "size_categories:",
        "| requests | 3 |",
        "| golden | 4 |",
    ):
        assert piece in card
    assert "split: holdout\n    path: holdout.dpo.jsonl" not in card  # there is no pair in it


def test_a_folder_of_the_first_schema_is_still_read(tmp_path: Path) -> None:
    made = write_dataset(tmp_path, ROWS, REJECTS, TEST, INPUTS, CONFIG)
    manifest = orjson.loads((made.path / "manifest.json").read_bytes())
    table = pq.read_table(made.path / "rows.parquet")
    pq.write_table(table.select(ROWS_1.names).cast(ROWS_1), made.path / "rows.parquet")
    for name in ("train.dpo.jsonl", "holdout.dpo.jsonl", "retrieval_failures.jsonl"):
        (made.path / name).unlink()
        del manifest["files"][name]
    rows = made.path / "rows.parquet"
    manifest["files"]["rows.parquet"] = {"sha256": sha256_file(rows), "bytes": rows.stat().st_size}
    hashes = {name: one["sha256"] for name, one in manifest["files"].items() if name != "README.md"}
    version = sha256_bytes(
        canonical_json({"inputs": manifest["inputs"], "config": manifest["config"], "content": hashes})
    )[:16]
    (made.path / "manifest.json").write_bytes(orjson.dumps(manifest | {"schema": 1, "version": version}))
    old = made.path.rename(tmp_path / version)
    assert verify(old)["rows"] == 4
    assert read_rows(old, ["row_id", "generation"]).column("generation").null_count == 4


def test_a_planted_near_duplicate_across_sides_is_refused(tmp_path: Path) -> None:
    near = row(3, "holdout", question="회의를 녹화해서 팀에 공유하는 툴")
    with pytest.raises(DatasetError, match="train-holdout") as caught:
        write_dataset(tmp_path, [*ROWS[:3], near], REJECTS, TEST, INPUTS, CONFIG)
    assert caught.value.detail["certificate"]["pairs"]["train-holdout"]["max_jaccard"] > 0.4
    with pytest.raises(DatasetError, match="train-test"):
        write_dataset(tmp_path, ROWS, REJECTS, [*TEST, QUESTIONS[0] + "?"], INPUTS, CONFIG)
    same_cluster = row(3, "holdout", cluster_id="c-0")
    with pytest.raises(DatasetError, match="train-holdout"):
        write_dataset(tmp_path, [*ROWS[:3], same_cluster], REJECTS, TEST, INPUTS, CONFIG)
    assert not tmp_path.exists() or not list(tmp_path.iterdir())


def test_nothing_to_train_on_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no_label 2.*import golden answers"):
        write_dataset(tmp_path, [ROWS[2]], REJECTS, TEST, INPUTS, CONFIG)


def rehash(path: Path, name: str) -> None:
    """Make the manifest agree with a changed file, as a forger would."""
    manifest = orjson.loads((path / "manifest.json").read_bytes())
    data = (path / name).read_bytes()
    manifest["files"][name] = {"sha256": sha256_file(path / name), "bytes": len(data)}
    (path / "manifest.json").write_bytes(orjson.dumps(manifest))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes() or b" ")
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2] or b"x")


def test_a_broken_folder_says_what_to_do(tmp_path: Path) -> None:
    made = write_dataset(tmp_path / "x", ROWS, REJECTS, TEST, INPUTS, CONFIG)
    names = sorted(content(made.path))
    for name in names:
        for number, harm in enumerate((flip, Path.unlink, cut)):
            folder = tmp_path / f"{name}{number}" / made.version
            folder.mkdir(parents=True)
            for file, data in content(made.path).items():
                (folder / file).write_bytes(data)
            harm(folder / name)
            with pytest.raises(DatasetError, match="Delete the folder and build again"):
                verify(folder)
    with pytest.raises(DatasetError, match="run the build first"):
        read_dataset(tmp_path / "none")


def test_a_forged_folder_is_found_out(tmp_path: Path) -> None:
    made = write_dataset(tmp_path, ROWS, REJECTS, TEST, INPUTS, CONFIG)
    (made.path / "extra.jsonl").write_bytes(b"{}\n")
    with pytest.raises(DatasetError, match=r"does not list \(extra.jsonl\)"):
        read_dataset(made.path)
    (made.path / "extra.jsonl").unlink()
    train = made.path / "train.jsonl"
    train.write_bytes(train.read_bytes().replace("맞습니다".encode(), "틀립니다".encode()))
    rehash(made.path, "train.jsonl")
    with pytest.raises(DatasetError, match="does not hash to its version"):
        read_dataset(made.path)
    manifest = orjson.loads((made.path / "manifest.json").read_bytes())
    manifest["files"]["../escape"] = {"sha256": "0", "bytes": 1}
    (made.path / "manifest.json").write_bytes(orjson.dumps(manifest))
    with pytest.raises(DatasetError, match="lists a path"):
        read_dataset(made.path)


def test_forms_that_disagree_are_found_even_if_every_hash_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = write_dataset(tmp_path, ROWS, REJECTS, TEST, INPUTS, CONFIG)
    train = made.path / "train.jsonl"
    train.write_bytes(train.read_bytes().replace("맞습니다".encode(), "틀립니다".encode()))
    rehash(made.path, "train.jsonl")
    monkeypatch.setattr("lake.dataset._version", lambda *_: made.version)
    with pytest.raises(DatasetError, match="differs between its forms"):
        verify(made.path)
