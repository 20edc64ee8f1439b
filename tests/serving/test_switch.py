"""The switch: probed first, written whole, acknowledged by all, or the old file is back and the reason is
said.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import orjson
import pytest

from lake.errors import BackendError, SetupError, SwitchError
from serving.acks import AckWriter, live_acks
from serving.backends import Backend
from serving.envfile import read_env_file, write_env_file
from serving.switch import SwitchReport, main, switch_backend
from serving.targets import save_target


class Server:
    """A stub of an LLM server in a thread: `models` are listed, completions end with `status`."""

    def __init__(self) -> None:
        self.models = [{"id": "base"}, {"id": "a-1", "parent": "base"}]
        self.status = 200
        self.base = ""
        self.uses = ""  # the model that answers, where it says so
        self.completions: list[dict[str, object]] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            status, body = 200, {"data": self.models}
            if head.startswith(b"post"):
                length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
                self.completions.append(orjson.loads(await reader.readexactly(length)))
                status, body = self.status, {"model": self.uses, "choices": [{"message": {"content": "x"}}]}
            data = orjson.dumps(body)
            writer.write(
                b"HTTP/1.1 %d X\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % (status, len(data)) + data
            )
            await writer.drain()
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


@pytest.fixture
def server() -> Iterator[Server]:
    stub, started, loop = Server(), threading.Event(), asyncio.new_event_loop()

    async def run() -> None:
        listener = await asyncio.start_server(stub.serve, "127.0.0.1", 0)
        stub.base = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v1"
        started.set()
        async with listener:
            await listener.serve_forever()

    task = loop.create_task(run())

    def turn() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            loop.run_until_complete(task)
        loop.close()

    thread = threading.Thread(target=turn, daemon=True)
    thread.start()
    assert started.wait(5)
    yield stub
    loop.call_soon_threadsafe(task.cancel)
    thread.join(5)


class Worker:
    """A gateway worker's side of the switch, in a thread; `answers` decides on each generation."""

    def __init__(self, env_file: Path, ack_dir: Path, name: str, answers: Callable[[int], bool | None]) -> None:
        self._env_file, self._answers = env_file, answers
        self._ack = AckWriter(ack_dir, name)
        self._ack.write(0, ok=True)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self.seen: list[int] = []

    def _run(self) -> None:
        last = -1
        while not self._stop.wait(0.01):
            if not self._env_file.exists():
                continue
            generation = int(read_env_file(self._env_file).get("LLM_GENERATION", "0"))
            if generation != last:
                last = generation
                self.seen.append(generation)
                answer = self._answers(generation)
                if answer is not None:
                    self._ack.write(generation, ok=answer, reason="" if answer else "the key is wrong")

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()
        self._ack.close()


OLD = {"LLM_API_BASE": "http://127.0.0.1:9/v1", "LLM_MODEL_NAME": "old", "LLM_GENERATION": "4", "EXTRA": "kept"}


def do_switch(server: Server, env_file: Path, model: str = "base", timeout_s: float = 3.0):  # type: ignore[no-untyped-def]
    wanted = Backend("vllm", server.base, model)
    return asyncio.run(switch_backend(wanted, env_file, env_file.parent / "ack", timeout_s=timeout_s))


def test_all_workers_acknowledge(server: Server, tmp_path: Path) -> None:
    env_file = tmp_path / "gateway.env"
    write_env_file(env_file, OLD)
    workers = [Worker(env_file, tmp_path / "ack", f"w{number}", lambda _: True) for number in range(3)]
    report = do_switch(server, env_file, "a-1")
    for worker in workers:
        worker.stop()
    assert report.workers == 3 and report.backend.generation == 5 and report.backend.adapter == "a-1"
    values = read_env_file(env_file)
    assert values["LLM_MODEL_NAME"] == "a-1" and values["LLM_ADAPTER"] == "a-1" and values["EXTRA"] == "kept"
    assert env_file.stat().st_mode & 0o777 == 0o600
    assert server.completions[0]["max_tokens"] == 1 and server.completions[0]["model"] == "a-1"
    assert live_acks(tmp_path / "ack") == []


def test_a_backend_that_does_not_answer_changes_nothing(server: Server, tmp_path: Path) -> None:
    env_file = tmp_path / "gateway.env"
    write_env_file(env_file, OLD)
    before = env_file.read_bytes()
    server.status = 500
    with pytest.raises(BackendError):
        do_switch(server, env_file)
    assert env_file.read_bytes() == before


@pytest.mark.parametrize(("answer", "says"), [(False, "the key is wrong"), (None, "did not acknowledge")])
def test_one_worker_refuses_or_is_silent(server: Server, tmp_path: Path, answer: bool | None, says: str) -> None:
    env_file = tmp_path / "gateway.env"
    write_env_file(env_file, OLD)
    good = Worker(env_file, tmp_path / "ack", "good", lambda _: True)
    bad = Worker(env_file, tmp_path / "ack", "bad", lambda generation: answer if generation == 5 else True)
    with pytest.raises(SwitchError, match=says) as caught:
        do_switch(server, env_file, timeout_s=0.6)
    good.stop()
    bad.stop()
    values = read_env_file(env_file)
    assert {**values, "LLM_GENERATION": "4"} == OLD and values["LLM_GENERATION"] == "6"
    assert good.seen[-1] == bad.seen[-1] == 6
    assert "the old backend is in service" in str(caught.value)


def test_dead_workers_do_not_count(server: Server, tmp_path: Path) -> None:
    ack_dir = tmp_path / "ack"
    ack_dir.mkdir()
    (ack_dir / "dead.lock").touch()
    (ack_dir / "dead.json").write_text('{"worker":"dead","pid":1,"generation":0,"ok":true,"reason":"","model":""}')
    env_file = tmp_path / "gateway.env"
    assert do_switch(server, env_file).workers == 0
    assert list(ack_dir.iterdir()) == [] and read_env_file(env_file)["LLM_GENERATION"] == "1"


def test_an_interrupted_switch_puts_the_old_file_back(server: Server, tmp_path: Path) -> None:
    env_file = tmp_path / "gateway.env"
    write_env_file(env_file, OLD)
    worker = Worker(env_file, tmp_path / "ack", "silent", lambda _: None)

    async def run() -> None:
        wanted = Backend("vllm", server.base, "base")
        task = asyncio.create_task(switch_backend(wanted, env_file, tmp_path / "ack", timeout_s=30))
        async with asyncio.timeout(10):
            while read_env_file(env_file)["LLM_GENERATION"] == "4":
                await asyncio.sleep(0.01)
        task.cancel()  # as Ctrl-C does
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())
    worker.stop()
    assert read_env_file(env_file) == {**OLD, "LLM_GENERATION": "6"}


def test_without_an_old_file_a_refusal_leaves_none(server: Server, tmp_path: Path) -> None:
    env_file = tmp_path / "gateway.env"
    worker = Worker(env_file, tmp_path / "ack", "w", lambda _: False)
    with pytest.raises(SwitchError, match="no env file before"):
        do_switch(server, env_file)
    worker.stop()
    assert not env_file.exists()


def test_the_fallback_survives(server: Server, tmp_path: Path) -> None:
    env_file = tmp_path / "gateway.env"
    fallback = {"LLM_FALLBACK_API_BASE": "http://127.0.0.1:8102/v1", "LLM_FALLBACK_MODEL_NAME": "base",
                "LLM_FALLBACK_API_KEY": "key-2", "LLM_FALLBACK_PROFILE": "llamacpp"}  # fmt: skip
    write_env_file(env_file, {**OLD, **fallback, "LLM_API_KEY": "old-key", "OPENAI_API_KEY": "older"})
    do_switch(server, env_file)
    values = read_env_file(env_file)
    assert fallback.items() <= values.items() and values["LLM_MODEL_NAME"] == "base"
    assert "LLM_API_KEY" not in values and "OPENAI_API_KEY" not in values


def test_champion_is_looked_up_and_followed(server: Server, tmp_path: Path) -> None:
    env_file = tmp_path / "gateway.env"
    write_env_file(env_file, OLD)
    before = env_file.read_bytes()
    champion = "0123456789abcdef"
    wanted = Backend("vllm", server.base, "champion")

    def switch() -> SwitchReport:
        return asyncio.run(switch_backend(wanted, env_file, tmp_path / "ack", champion=champion))

    with pytest.raises(SetupError, match=f"does not have the champion {champion}"):
        switch()
    assert env_file.read_bytes() == before and server.completions == []
    loaded = f"mulle-{champion}-01kb0000000000000000000000"
    server.models.append({"id": loaded, "parent": "base"})
    report = switch()
    assert (report.backend.model, report.backend.adapter) == (loaded, champion)
    assert server.completions[0]["model"] == loaded  # the probe asks for the adapter itself
    values = read_env_file(env_file)
    assert values["LLM_MODEL_NAME"] == "champion" and "LLM_ADAPTER" not in values


@pytest.mark.parametrize("profile", ["lmstudio", "llamacpp"])
def test_servers_that_answer_to_any_name_are_not_believed(server: Server, tmp_path: Path, profile: str) -> None:
    def switch(model: str) -> SwitchReport:
        wanted = Backend(profile, server.base, model)
        return asyncio.run(switch_backend(wanted, tmp_path / "gateway.env", tmp_path / "ack"))

    with pytest.raises(SetupError, match=r"does not have the model other \(it has base, a-1\)"):
        switch("other")  # not listed
    server.uses = "base"
    with pytest.raises(SetupError, match=r"does not have the model a-1 \(it has base\)"):
        switch("a-1")  # listed, since it could be loaded, but another one answered
    server.uses = "a-1:2"  # LM Studio's second instance of it
    assert switch("a-1").backend.model == "a-1"


def test_one_switch_at_a_time(server: Server, tmp_path: Path) -> None:
    env_file = tmp_path / "gateway.env"
    write_env_file(env_file, OLD)
    worker = Worker(env_file, tmp_path / "ack", "w", lambda _: None)
    first: list[BaseException] = []

    def run() -> None:
        try:
            do_switch(server, env_file, timeout_s=0.5)
        except SwitchError as error:
            first.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(0.3)
    with pytest.raises(SetupError, match="Another switch"):
        do_switch(server, env_file)
    thread.join()
    worker.stop()
    assert len(first) == 1


def test_command(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MULLE_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("MULLE_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.delenv("MULLE_ENV_FILE", raising=False)
    assert main(["--to", "vllm", "--api-base", server.base]) == 78  # two models, none named
    assert "base, a-1" in capsys.readouterr().err
    (tmp_path / "models" / "adapters" / "a-1").mkdir(parents=True)
    (tmp_path / "models" / "finetuned_adapter").symlink_to("adapters/a-1")
    save_target(tmp_path / "run", "vllm", Backend("vllm", server.base, "", "key-9"))
    assert main(["--to", "vllm"]) == 0
    out = capsys.readouterr().out
    assert "model a-1" in out and "no running gateway" in out and "key-9" not in out
    assert read_env_file(tmp_path / "run" / "gateway.env")["LLM_API_KEY"] == "key-9"
    monkeypatch.setenv("MULLE_SWITCH_API_KEY", "key-10")
    assert main(["--to", "vllm", "--model", "base"]) == 0
    assert read_env_file(tmp_path / "run" / "gateway.env")["LLM_API_KEY"] == "key-10"
    assert main(["--to", "nonsense"]) == 78
    server.status = 401
    assert main(["--to", "vllm"]) == 69


def test_an_env_value_comes_back_as_it_was(tmp_path: Path) -> None:
    """Unicode's own line breaks, spaces and quotes are part of a value; a real line break is refused."""
    path = tmp_path / "gateway.env"
    values = {"LLM_API_KEY": "a\x0cb\u2028c\x85", "B": " spaces ", "C": "'quoted'", "D": '"', "E": "", "F": "x"}
    write_env_file(path, values)
    assert read_env_file(path) == values
    assert "F=x\n" in path.read_text("utf-8")
