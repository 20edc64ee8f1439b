"""The registry: content addresses, states, one winner, projections that follow from the log."""

from __future__ import annotations

import json
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lake.adapter_files import adapter_id, check_files
from lake.errors import AdapterError, GateError
from lake.files import sha256_file, write_json_atomic
from lake.registry import Registry
from lake.registry_log import RegistryLog


def make_adapter(folder: Path, fill: int) -> Path:
    """A whole, tiny adapter folder; `fill` decides its content."""
    folder.mkdir(parents=True)
    data = bytes([fill]) * 16
    header = json.dumps({"w.lora_A.weight": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    weights = struct.pack("<Q", len(header)) + header + data
    (folder / "adapter_model.safetensors").write_bytes(weights)
    config = {"peft_type": "LORA", "r": 8, "base_model_name_or_path": "base", "lora_alpha": 16}
    write_json_atomic(folder / "adapter_config.json", config)
    (folder / "metrics.json").write_text("{}")
    refresh_manifest(folder)
    return folder


def refresh_manifest(folder: Path) -> None:
    files = {file.name: {"sha256": sha256_file(file)} for file in folder.iterdir() if file.name != "manifest.json"}
    manifest = {"base_model": "base", "base_sha256": "b" * 64, "template_sha256": "t", "rank": 8, "files": files}
    write_json_atomic(folder / "manifest.json", {**manifest, "dataset": {"version": "d1"}})


def passed(one: str, champion: str | None = None) -> dict[str, Any]:
    return {
        "passed": True,
        "adapter_id": one,
        "champion_id": champion,
        "evidence_sha256": "e" * 64,
        "checks": [{"name": "n", "passed": True}],
    }


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "models")


def add(registry: Registry, tmp_path: Path, fill: int) -> str:
    return registry.add(make_adapter(tmp_path / f"new-{fill}", fill)).adapter_id


def test_an_added_adapter_is_a_candidate_under_its_content_address(registry: Registry, tmp_path: Path) -> None:
    source = make_adapter(tmp_path / "a", 1)
    entry = registry.add(source)
    assert entry.state == "candidate" and entry.dataset_version == "d1" and entry.rank == 8
    assert entry.path.name == entry.adapter_id == adapter_id(source) and len(entry.adapter_id) == 16
    assert registry.champion() is None and not registry.link.exists()


def test_adding_the_same_content_again_changes_nothing(registry: Registry, tmp_path: Path) -> None:
    one = add(registry, tmp_path, 1)
    registry.promote(one, passed(one), "me")
    assert registry.add(make_adapter(tmp_path / "again", 1)).state == "champion"
    assert [event.kind for event in registry.history()] == ["add", "promote"]


def test_moving_takes_the_folder_away(registry: Registry, tmp_path: Path) -> None:
    source = make_adapter(tmp_path / "models" / "adapters" / ".incoming", 1)
    entry = registry.add(source, move=True)
    assert not source.exists() and entry.path.is_dir()


def test_promotion_links_and_retires_the_one_before(registry: Registry, tmp_path: Path) -> None:
    one, two = add(registry, tmp_path, 1), add(registry, tmp_path, 2)
    registry.promote(one, passed(one), "me")
    registry.promote(two, passed(two, one), "me")
    assert registry.get(one).state == "retired" and registry.get(two).state == "champion"
    assert registry.link.is_symlink() and registry.link.resolve().name == two
    assert not registry.link.readlink().is_absolute()
    event = registry.history(two)[-1]
    assert event.actor == "me" and event.evidence["gate"]["adapter_id"] == two and event.at.endswith("+00:00")


@pytest.mark.parametrize(
    "change",
    [
        {"passed": False},
        {"passed": "true"},
        {"adapter_id": "0" * 16},
        {"evidence_sha256": ""},
        {"checks": []},
        {"checks": [{"name": "n", "passed": False}]},
        {"champion_id": "f" * 16},
    ],
)
def test_only_a_passed_record_of_this_adapter_promotes(
    registry: Registry, tmp_path: Path, change: dict[str, Any]
) -> None:
    one = add(registry, tmp_path, 1)
    with pytest.raises(GateError):
        registry.promote(one, {**passed(one), **change}, "me")
    assert registry.champion() is None and not registry.link.exists()


def test_a_record_without_the_champion_it_was_compared_with_is_refused(registry: Registry, tmp_path: Path) -> None:
    one = add(registry, tmp_path, 1)
    record = passed(one)
    del record["champion_id"]
    with pytest.raises(GateError):
        registry.promote(one, record, "me")


def test_of_promotions_at_once_one_wins(registry: Registry, tmp_path: Path) -> None:
    ids = [add(registry, tmp_path, fill) for fill in range(1, 7)]

    def promote(one: str) -> bool:
        try:
            Registry(tmp_path / "models").promote(one, passed(one), "racer")
        except GateError:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        won = [one for one, ok in zip(ids, pool.map(promote, ids), strict=True) if ok]
    champion = registry.champion()
    assert champion is not None and won == [champion.adapter_id]
    assert [entry.state for entry in registry.list()].count("champion") == 1


def test_rollback_goes_back_one_and_then_to_the_base(registry: Registry, tmp_path: Path) -> None:
    one, two = add(registry, tmp_path, 1), add(registry, tmp_path, 2)
    registry.promote(one, passed(one), "me")
    registry.promote(two, passed(two, one), "me")
    back = registry.rollback("me")
    assert back is not None and back.adapter_id == one and back.state == "champion"
    assert registry.link.resolve().name == one and registry.get(two).state == "retired"
    assert registry.rollback("me") is None and not registry.link.is_symlink()
    with pytest.raises(AdapterError):
        registry.rollback("me")


def test_rollback_never_lands_on_a_damaged_adapter(registry: Registry, tmp_path: Path) -> None:
    one, two = add(registry, tmp_path, 1), add(registry, tmp_path, 2)
    registry.promote(one, passed(one), "me")
    registry.promote(two, passed(two, one), "me")
    (registry.adapters_dir / one / "metrics.json").write_text("changed")
    with pytest.raises(AdapterError):
        registry.rollback("me")
    champion = registry.champion()
    assert champion is not None and champion.adapter_id == two


def test_the_champion_is_not_retired_but_a_candidate_is(registry: Registry, tmp_path: Path) -> None:
    one, two = add(registry, tmp_path, 1), add(registry, tmp_path, 2)
    registry.promote(one, passed(one), "me")
    with pytest.raises(AdapterError):
        registry.retire(one, "me")
    assert registry.retire(two, "me", "old").state == "retired"


def test_quarantine_is_for_good_and_skipped_by_rollback(registry: Registry, tmp_path: Path) -> None:
    ids = [add(registry, tmp_path, fill) for fill in (1, 2, 3)]
    before: str | None = None
    for one in ids:
        registry.promote(one, passed(one, before), "me")
        before = one
    registry.quarantine(ids[1], "me", "trained on erased data")
    back = registry.rollback("me")
    assert back is not None and back.adapter_id == ids[0]
    with pytest.raises(GateError):
        registry.promote(ids[1], passed(ids[1], ids[0]), "me")
    with pytest.raises(AdapterError):
        registry.retire(ids[1], "me")


def test_a_quarantined_champion_makes_way_at_once(registry: Registry, tmp_path: Path) -> None:
    one, two = add(registry, tmp_path, 1), add(registry, tmp_path, 2)
    registry.promote(one, passed(one), "me")
    registry.promote(two, passed(two, one), "me")
    registry.quarantine(two, "me", "bad")
    champion = registry.champion()
    assert champion is not None and champion.adapter_id == one and registry.link.resolve().name == one


def test_promoting_a_changed_adapter_quarantines_it(registry: Registry, tmp_path: Path) -> None:
    one = add(registry, tmp_path, 1)
    weights = registry.adapters_dir / one / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")
    with pytest.raises(AdapterError, match="sha256"):
        registry.promote(one, passed(one), "me")
    assert registry.get(one).state == "quarantined" and registry.champion() is None


def test_a_rewritten_manifest_is_noticed(registry: Registry, tmp_path: Path) -> None:
    one = add(registry, tmp_path, 1)
    folder = registry.adapters_dir / one
    (folder / "metrics.json").write_text('{"final_loss": 0}')
    refresh_manifest(folder)
    check_files(folder)
    with pytest.raises(AdapterError, match="registered"):
        registry.verify(one)


def test_projections_are_rebuilt_from_the_log(registry: Registry, tmp_path: Path) -> None:
    one = add(registry, tmp_path, 1)
    registry.promote(one, passed(one), "me")
    registry.link.unlink()
    registry.aliases_file.unlink()
    assert registry.rebuild() == {"champion": one, "previous": None}
    assert registry.link.resolve().name == one and registry.aliases_file.exists()


def test_a_torn_tail_is_ignored_and_cut_by_the_next_writer(registry: Registry, tmp_path: Path) -> None:
    one, two = add(registry, tmp_path, 1), add(registry, tmp_path, 2)
    with registry.log.path.open("ab") as handle:
        handle.write(b'{"seq":3,"kind":"promote"')
    assert registry.champion() is None and len(registry.list()) == 2
    registry.promote(two, passed(two), "me")
    assert [event.seq for event in registry.history()] == [1, 2, 3]
    assert registry.get(one).state == "candidate"


def test_a_changed_line_breaks_the_chain(registry: Registry, tmp_path: Path) -> None:
    one = add(registry, tmp_path, 1)
    registry.promote(one, passed(one), "me")
    path = registry.log.path
    path.write_bytes(path.read_bytes().replace(b'"actor":"train"', b'"actor":"other"'))
    with pytest.raises(AdapterError, match="line 2"):
        RegistryLog(path).read()


@pytest.mark.parametrize("one", ["", "../etc", "0" * 16, "ABCDEF0123456789"])
def test_unknown_ids_are_refused(registry: Registry, one: str) -> None:
    with pytest.raises(AdapterError):
        registry.get(one)


def test_hostile_folders_are_refused(registry: Registry, tmp_path: Path) -> None:
    def broken(name: str) -> Path:
        return make_adapter(tmp_path / name, 9)

    pickle = broken("pickle")
    (pickle / "adapter_model.bin").write_bytes(b"\x80\x04.")
    link = broken("link")
    (link / "metrics.json").unlink()
    (link / "metrics.json").symlink_to("/etc/hostname")
    short = broken("short")
    (short / "adapter_model.safetensors").write_bytes(b"\x00" * 4)
    refresh_manifest(short)
    truncated = broken("truncated")
    weights = truncated / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    refresh_manifest(truncated)
    dora = broken("dora")
    write_json_atomic(dora / "adapter_config.json", {"peft_type": "LORA", "r": 8, "use_dora": True})
    refresh_manifest(dora)
    other = broken("other-base")
    config = {"peft_type": "LORA", "r": 8, "base_model_name_or_path": "another"}
    write_json_atomic(other / "adapter_config.json", config)
    refresh_manifest(other)
    missing = broken("missing")
    (missing / "metrics.json").unlink()
    whole = tmp_path / "alias"
    whole.symlink_to(broken("target"))
    for folder in (pickle, link, short, truncated, dora, other, missing, whole, tmp_path / "nowhere"):
        with pytest.raises(AdapterError):
            registry.add(folder)
    assert registry.list() == []
