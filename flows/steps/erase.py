"""Erase step: carry on with what `lake/erase.py` began, and take adapters that may not serve any more out of vLLM."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from flows.steps.stage import StageContext
from lake.erase import carry_on
from lake.erase_work import open_works
from lake.errors import BackendError, UnknownSubjectError
from serving.adapters import list_models, unload_adapter


def run_erase(stage: StageContext, erasure_id: str | None, at_once: bool) -> dict[str, Any]:
    """One erasure, or all that are not proven yet; what is due (or everything, `at_once`) is removed and proven.

    Raises `UnknownSubjectError` for an id without a work file, `ErasureError` where something is still found. Safe to
    retry.
    """
    works = [work for work in open_works(stage.lake.erasures_dir) if erasure_id in (None, work.erasure_id)]
    if erasure_id is not None and not works:
        raise UnknownSubjectError(f"No erasure {erasure_id!r} is under way in {stage.lake.erasures_dir}.")
    now = datetime.now(UTC)
    progress = stage.progress(len(works))
    reports: list[dict[str, Any]] = []
    for work in works:
        report = carry_on(stage.lake, work, now, at_once=at_once, log=stage.log)
        report["unloaded"] = unload(stage, report["adapters_quarantined"])
        stage.log(f"erasure {work.erasure_id}: {report['state']}")
        reports.append(report)
        progress.advance(note=report["state"])
    return {"erasures": reports, "states": {one["erasure_id"]: one["state"] for one in reports}}


def unload(stage: StageContext, adapters: list[str]) -> dict[str, list[str]]:
    """Take every load of these adapters out of the vLLM of the settings; adapter: names that went.

    A server that is not there serves nothing; one that does not answer is logged, it keeps what it has until it ends.
    """
    if not adapters:
        return {}
    url = f"http://127.0.0.1:{stage.serving.vllm_port}"
    try:
        return asyncio.run(_unload(url, stage.serving.vllm_api_key.get_secret_value(), adapters))
    except BackendError as error:
        stage.log(f"vLLM at {url} was not asked to unload {', '.join(adapters)}: {error}")
        return {}


async def _unload(url: str, api_key: str, adapters: list[str]) -> dict[str, list[str]]:
    gone: dict[str, list[str]] = {}
    for model in await list_models(url, api_key):
        for one in adapters:
            is_load = bool(model.parent) and (one in model.name or one in model.root)
            if is_load and await unload_adapter(url, api_key, model.name):
                gone.setdefault(one, []).append(model.name)
    return gone
