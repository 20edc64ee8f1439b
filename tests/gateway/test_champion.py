"""The holder follows the registry's champion: without a restart, only to what a server has, and says why where not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway.backend_holder import BackendHolder
from lake.errors import BackendRefused
from lake.files import swap_symlink
from lake.registry import Registry
from serving.acks import AckWriter, live_acks
from serving.client import LLMClient
from serving.envfile import write_env_file
from tests.faults.toxic import ToxicServer, run_toxic

A, B = "a" * 16, "b" * 16
LOAD_A, LOAD_B = f"mulle-{A}-01kb0000000000000000000000", f"mulle-{B}-01kb0000000000000000000000"
NEWER_A = f"mulle-{A}-01kc0000000000000000000000"


@pytest.fixture
def vllm() -> Iterator[ToxicServer]:
    with run_toxic() as server:
        server.models, server.strict = ["base", LOAD_A, LOAD_B], True
        yield server


@pytest.fixture
def point_to(tmp_path: Path) -> Callable[[str], None]:
    """Moves the pointer `models/finetuned_adapter`, as the registry does."""

    def move(adapter_id: str) -> None:
        (tmp_path / "models" / "adapters" / adapter_id).mkdir(parents=True, exist_ok=True)
        swap_symlink(tmp_path / "models" / "finetuned_adapter", tmp_path / "models" / "adapters" / adapter_id)

    return move


def env(server: ToxicServer, **more: str) -> dict[str, str]:
    return {"LLM_API_BASE": server.base, "LLM_MODEL_NAME": "champion", "LLM_PROFILE": "vllm", **more}


def in_service(holder: BackendHolder) -> str:
    return holder.backend.model if holder.backend is not None else ""


async def until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not done():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("from_file", [True, False], ids=["env file", "process environment"])
def test_the_pointer_is_followed(
    vllm: ToxicServer, point_to: Callable[[str], None], tmp_path: Path, from_file: bool
) -> None:
    point_to(A)
    env_file = tmp_path / "gateway.env" if from_file else None
    if env_file is not None:
        write_env_file(env_file, env(vllm))

    async def main() -> None:
        holder = BackendHolder(
            LLMClient, env_file=env_file, values=env(vllm), poll_s=60.0, models_dir=tmp_path / "models"
        )  # a file is looked at once a minute only; the champion is not waited for so long
        await holder.start()
        assert in_service(holder) == LOAD_A and holder.backend is not None and holder.backend.adapter == A
        async with holder.lease() as old:
            assert old is not None
            point_to(B)
            await until(lambda: in_service(holder) == LOAD_B)
            await old.chat([{"role": "user", "content": "x"}], 1)
            assert vllm.asked[-1]["model"] == LOAD_A == old.backend.model  # begun on the old one, ended there
        assert holder.reason == "" and holder.switches == 1
        assert holder.states()[0]["follows_champion"] is True
        await holder.aclose()

    asyncio.run(main())


def test_a_champion_that_is_not_served_leaves_the_old_one(
    vllm: ToxicServer, point_to: Callable[[str], None], tmp_path: Path
) -> None:
    point_to(A)
    vllm.models = ["base", LOAD_A]

    async def main() -> None:
        ack = AckWriter(tmp_path / "ack", "w")
        holder = BackendHolder(LLMClient, values=env(vllm), ack=ack, models_dir=tmp_path / "models")
        await holder.start()
        point_to(B)
        await until(lambda: f"does not have the champion {B}" in holder.reason)
        await until(lambda: not live_acks(tmp_path / "ack")[0].ok)
        assert in_service(holder) == LOAD_A
        vllm.models = ["base", LOAD_A, LOAD_B]  # it is tried again by itself
        await until(lambda: in_service(holder) == LOAD_B)
        await until(lambda: live_acks(tmp_path / "ack")[0].model == LOAD_B)
        assert holder.reason == "" and live_acks(tmp_path / "ack")[0].ok
        await holder.aclose()

    asyncio.run(main())


def test_no_champion_yet(vllm: ToxicServer, point_to: Callable[[str], None], tmp_path: Path) -> None:
    async def main() -> None:
        holder = BackendHolder(LLMClient, values=env(vllm), models_dir=tmp_path / "models")
        await holder.start()
        assert "There is no champion yet" in holder.reason and not holder.can_answer
        async with holder.lease() as call:
            assert call is None
        point_to(A)
        await until(lambda: in_service(holder) == LOAD_A)
        (tmp_path / "models" / "finetuned_adapter").unlink()  # rolled back to the base
        await until(lambda: "There is no champion yet" in holder.reason)
        assert in_service(holder) == LOAD_A
        await holder.aclose()

    asyncio.run(main())


def test_a_quarantined_adapter_is_dropped(vllm: ToxicServer, point_to: Callable[[str], None], tmp_path: Path) -> None:
    point_to(A)
    log = Registry(tmp_path / "models").log
    with log.locked():
        log.append("add", A, "test", "", {})

    async def main() -> None:
        holder = BackendHolder(LLMClient, values=env(vllm), models_dir=tmp_path / "models")
        await holder.start()
        with log.locked():
            log.append("quarantine", A, "test", "its data was erased", {})
        (tmp_path / "models" / "finetuned_adapter").unlink()
        await until(lambda: holder.backend is None)
        assert "There is no champion yet" in holder.reason and not holder.can_answer
        await holder.aclose()

    asyncio.run(main())


def test_a_server_that_is_down_at_the_start_is_found_later(
    vllm: ToxicServer, point_to: Callable[[str], None], tmp_path: Path
) -> None:
    point_to(A)
    vllm.behave("refuse")

    async def main() -> None:
        holder = BackendHolder(LLMClient, values=env(vllm), models_dir=tmp_path / "models")
        await holder.start()
        assert "No LLM server answers" in holder.reason
        vllm.behave("good")
        await until(lambda: in_service(holder) == LOAD_A)
        await holder.aclose()

    asyncio.run(main())


def test_loaded_anew_under_another_name(vllm: ToxicServer, point_to: Callable[[str], None], tmp_path: Path) -> None:
    """vLLM was restarted and the adapter loaded again: the pointer is the same, the first 404 makes it looked up."""
    point_to(A)

    async def main() -> None:
        holder = BackendHolder(LLMClient, values=env(vllm), models_dir=tmp_path / "models")
        await holder.start()
        vllm.models = ["base", NEWER_A]
        await asyncio.sleep(0.6)  # a look-up less than half a second ago is not repeated
        async with holder.lease() as call:
            assert call is not None
            with pytest.raises(BackendRefused):
                await call.chat([{"role": "user", "content": "x"}], 1)
        await until(lambda: in_service(holder) == NEWER_A)
        await holder.aclose()

    asyncio.run(main())


def test_the_fallback_answers_alone_until_there_is_a_champion(
    vllm: ToxicServer, point_to: Callable[[str], None], tmp_path: Path
) -> None:
    with run_toxic() as second:
        values = env(
            vllm, LLM_FALLBACK_API_BASE=second.base, LLM_FALLBACK_MODEL_NAME="base", LLM_FALLBACK_PROFILE="llamacpp"
        )

        async def main() -> None:
            holder = BackendHolder(LLMClient, values=values, models_dir=tmp_path / "models")
            await holder.start()
            assert holder.backend is None and holder.can_answer and "no champion" in holder.reason
            async with holder.lease() as call:
                assert call is not None
                await call.chat([{"role": "user", "content": "x"}], 1)
                assert call.is_fallback and call.backend.profile == "llamacpp"
            point_to(A)
            await until(lambda: in_service(holder) == LOAD_A)
            assert [state["role"] for state in holder.states()] == ["primary", "fallback"]
            await holder.aclose()

        asyncio.run(main())


def test_the_fallback_may_follow_the_champion(
    vllm: ToxicServer, point_to: Callable[[str], None], tmp_path: Path
) -> None:
    point_to(A)
    with run_toxic() as lmstudio:
        values = {
            **env(vllm, LLM_MODEL_NAME="base"), "LLM_FALLBACK_API_BASE": lmstudio.base,
            "LLM_FALLBACK_MODEL_NAME": "champion", "LLM_FALLBACK_PROFILE": "lmstudio",
        }  # fmt: skip

        async def main() -> None:
            holder = BackendHolder(LLMClient, values=values, models_dir=tmp_path / "models")
            await holder.start()
            assert in_service(holder) == "base" and holder.reason == ""
            assert holder.fallback is None and f"champion {A}" in holder.fallback_reason
            lmstudio.models = [A]  # `lms load ... --identifier <adapter id>`
            await until(lambda: holder.fallback is not None)
            assert holder.fallback is not None and holder.fallback.model == A and holder.fallback_reason == ""
            await holder.aclose()

        asyncio.run(main())
