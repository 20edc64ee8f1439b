"""docs/grafana/mulle.json asks only for series that a gateway has, and leaves none of ours out unsaid."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.parts import Config, Parts
from tests.gateway.kit import PATH, ROOT, Upstream, run

NOT_SHOWN: set[str] = set()  # our families without a panel; none now
_NAME = re.compile(r"\b((?:mulle|gen_ai|process)_[a-z_]+?)(?=[\[{)\s]|$)")
_LABELS = re.compile(r"by \(([^)]*)\)|\{\{(\w+)\}\}")


def dashboard() -> dict[str, Any]:
    return orjson.loads((ROOT / "docs" / "grafana" / "mulle.json").read_bytes())


def targets() -> Iterator[dict[str, Any]]:
    for panel in dashboard()["panels"]:
        yield from panel.get("targets", ())


@pytest.fixture
def families(make_config: Callable[..., Config], upstream: Upstream) -> dict[str, set[str]]:
    """Every sample name of a gateway that has seen answers, a stream, a failure and feedback → its labels."""
    found: dict[str, set[str]] = {}

    async def work(client: httpx.AsyncClient, _: Parts) -> None:
        rid = (await client.post(PATH, json={"question": "화상 회의"})).json()["request_id"]
        await client.post(PATH, json={"question": "화상 회의", "stream": True})
        await client.post("/api/v1/feedback", json={"request_id": rid, "thumb": "up"})
        await client.post(PATH, json={"question": ""})
        upstream.status = 400
        await client.post(PATH, json={"question": "화상 회의", "allow_degraded": True})
        for family in text_string_to_metric_families((await client.get("/metrics")).text):
            for sample in family.samples:
                found.setdefault(sample.name, set()).update(sample.labels)

    run(make_config(), work)
    # Only a worker process with its peers adds these.
    found["mulle_worker_up"] = set()
    return {name: labels | {"worker"} for name, labels in found.items()}


def test_every_query_finds_its_series_and_labels(families: dict[str, set[str]]) -> None:
    assert sum(1 for _ in targets()) > 30
    for target in targets():
        names = set(_NAME.findall(target["expr"])) - {"gen_ai_request_model", "gen_ai_token_type"}
        assert names, target
        assert names <= set(families), (names - set(families), target)
        labels = {
            label.strip()
            for grouped, shown in _LABELS.findall(target["expr"] + target["legendFormat"])
            for label in (grouped or shown).split(",")
        } - {"le"}
        assert labels <= set().union(*(families[name] for name in names)), (labels, target)


def test_every_series_of_ours_has_a_panel(families: dict[str, set[str]]) -> None:
    asked = {name for target in targets() for name in _NAME.findall(target["expr"])}

    def base(name: str) -> str:
        return re.sub(r"_(bucket|sum|count)$", "", name)

    ours = {base(name) for name in families if name.startswith(("mulle_", "gen_ai_"))}
    assert ours - {base(name) for name in asked} == NOT_SHOWN


def test_the_file_is_a_dashboard() -> None:
    panels = dashboard()["panels"]
    assert dashboard()["schemaVersion"] >= 39 and dashboard()["uid"] == "mulle-gateway"
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken and max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells
