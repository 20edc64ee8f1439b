"""MULLE_MASK_PROMPTS: what the LLM is shown of a question; search and journal have the question itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import httpx
import pytest

from gateway.parts import Config, Parts
from lake.settings import LakeSettings
from tests.gateway.kit import PATH, Upstream, read_journal, run

QUESTION = "010-1234-5678로 화상 회의 초대를 보내는 도구"


@pytest.mark.parametrize("masked", [False, True])
def test_the_llm_is_shown_placeholders_only_where_asked(
    make_config: Callable[..., Config], upstream: Upstream, masked: bool
) -> None:
    async def work(client: httpx.AsyncClient, parts: Parts) -> None:
        reply = await client.post(PATH, json={"question": QUESTION})
        assert reply.status_code == 200, reply.text
        shown = upstream.seen[-1]["messages"][0]["content"]
        assert ("010-1234-5678" in shown, "(PHONE_NUMBER)로 화상 회의" in shown) == (not masked, masked)
        logged = read_journal(parts.journal.directory.parent)[0][reply.headers["x-request-id"]]
        assert logged["user_query"] == QUESTION

    run(make_config(mask_prompts=masked), work)


def test_types_that_stay_in_the_lake_stay_in_prompts(make_config: Callable[..., Config], upstream: Upstream) -> None:
    async def work(client: httpx.AsyncClient, parts: Parts) -> None:
        reply = await client.post(PATH, json={"question": QUESTION + ", a@b.com"})
        assert reply.status_code == 200, reply.text
        shown = upstream.seen[-1]["messages"][0]["content"]
        assert "010-1234-5678" in shown and "(EMAIL_ADDRESS)" in shown

    config = make_config(mask_prompts=True)
    lake = LakeSettings(data_dir=config.lake.data_dir, models_dir=config.lake.models_dir, mask_off="phone")
    run(replace(config, lake=lake), work)
