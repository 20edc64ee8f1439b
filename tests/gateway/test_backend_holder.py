"""The holder alone: requests end on the backend they began with, replaced clients close when they are idle."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.backend_holder import BackendHolder
from serving.backends import Backend
from serving.client import LLMClient
from serving.envfile import write_env_file


class NotedClient(LLMClient):
    closed = False

    async def aclose(self) -> None:
        self.closed = True
        await super().aclose()


def env(number: int) -> dict[str, str]:
    return {
        "LLM_API_BASE": f"http://127.0.0.1:{9000 + number}/v1",
        "LLM_MODEL_NAME": f"m{number}",
        "LLM_PROFILE": "vllm",
        "LLM_GENERATION": str(number),
    }


async def until(done: object, timeout_s: float = 3.0) -> None:
    end = asyncio.get_running_loop().time() + timeout_s
    while not done():  # type: ignore[operator]
        assert asyncio.get_running_loop().time() < end
        await asyncio.sleep(0.01)


def test_in_flight_requests_keep_their_backend(tmp_path: Path) -> None:
    env_file = tmp_path / "gateway.env"
    write_env_file(env_file, env(1))

    async def main() -> None:
        holder = BackendHolder(NotedClient, env_file=env_file, poll_s=0.02)
        await holder.start()
        async with holder.lease() as old:
            assert old is not None and old.backend.model == "m1"
            write_env_file(env_file, env(2))
            await until(lambda: holder.backend is not None and holder.backend.model == "m2")
            async with holder.lease() as new:
                assert new is not None and new.backend.generation == 2
            assert holder.draining == 1 and not old._targets[0].client.closed  # type: ignore[attr-defined]
            assert old.backend == Backend("vllm", "http://127.0.0.1:9001/v1", "m1", "", 1)
        await until(lambda: old._targets[0].client.closed)  # type: ignore[attr-defined,union-attr]
        assert holder.draining == 0 and holder.switches == 1
        write_env_file(env_file, {"LLM_API_BASE": "nonsense"})
        await until(lambda: "LLM_" in holder.reason)
        assert holder.backend is not None and holder.backend.model == "m2"
        env_file.unlink()
        await until(lambda: "MULLE_ENV_FILE" in holder.reason)
        assert holder.backend.model == "m2"
        write_env_file(env_file, env(2))
        await until(lambda: not holder.reason)
        assert holder.switches == 1  # the same backend again is no switch
        await holder.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("values", [{}, {"LLM_API_BASE": "http://169.254.1.1/v1", "LLM_MODEL_NAME": "m"}])
def test_nothing_usable_is_no_backend(values: dict[str, str]) -> None:
    async def main() -> None:
        holder = BackendHolder(NotedClient, values=values)
        await holder.start()
        assert holder.backend is None and "LLM_API_BASE" in holder.reason
        async with holder.lease() as lease:
            assert lease is None
        await holder.aclose()

    asyncio.run(main())
