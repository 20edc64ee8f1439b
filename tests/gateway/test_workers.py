"""Two real workers under load: a switch, SIGHUP, SIGTERM and kill -9 lose no answered request, and wedge nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import httpx
import psutil
import pytest

from lake.ingest import ingest
from lake.settings import LakeSettings
from lake.tables import scan as scan_table
from serving.acks import live_acks
from serving.backends import Backend
from serving.envfile import write_env_file
from serving.switch import switch_backend
from tests.gateway.kit import Gateway, Upstream, run_upstream, wait_until

pytestmark = pytest.mark.slow
Start = Callable[..., Gateway]
QUESTION = "디자이너 여럿이 화면 시안을 같이 고치는 도구"


class Load:
    """Users that ask one question after the other, each on a new connection, until they are told to stop."""

    def __init__(self, url: str, users: int) -> None:
        self.replies: list[httpx.Response] = []
        self.errors: list[httpx.TransportError] = []
        self._url = url
        self._stop = threading.Event()
        self._client = httpx.Client(
            trust_env=False, timeout=30, limits=httpx.Limits(max_connections=users, max_keepalive_connections=0)
        )
        self._threads = [threading.Thread(target=self._ask) for _ in range(users)]

    def _ask(self) -> None:
        while not self._stop.is_set():
            try:
                reply = self._client.post(f"{self._url}/api/v1/search", json={"question": QUESTION})
            except httpx.TransportError as error:
                self.errors.append(error)
                self._stop.wait(0.02)
            else:
                self.replies.append(reply)

    @property
    def ids(self) -> set[str]:
        """Of the answered ones."""
        return {reply.headers["x-request-id"] for reply in self.replies if reply.status_code == 200}

    def more(self, count: int) -> None:
        """Wait for `count` more replies."""
        target = len(self.replies) + count
        wait_until(lambda: len(self.replies) >= target, 30)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(40)
        self._client.close()

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def workers_of(gateway: Gateway) -> list[psutil.Process]:
    return psutil.Process(gateway.process.pid).children()


@pytest.fixture
def env(upstream: Upstream, tmp_path: Path) -> Iterator[dict[str, str]]:
    """Two workers that follow an env file which names the stub."""
    upstream.delay_s = 0.1
    path = tmp_path / "gateway.env"
    write_env_file(path, {"LLM_API_BASE": upstream.base, "LLM_MODEL_NAME": upstream.name, "LLM_PROFILE": "vllm"})
    yield {"MULLE_WORKERS": "2", "MULLE_ENV_FILE": str(path), "MULLE_BACKEND_POLL_S": "60"}


def test_switch_and_hangup_drop_nothing(start_gateway: Start, env: dict[str, str], tmp_path: Path) -> None:
    env_file = Path(env["MULLE_ENV_FILE"])
    gateway = start_gateway({**env, "MULLE_BACKEND_POLL_S": "0.1"})
    ack_dir = gateway.data_dir / "run" / "ack"
    pids = {worker.pid for worker in workers_of(gateway)}
    assert len(pids) == 2 and gateway.process.pid not in pids
    with run_upstream("model-b", 0.1) as other, Load(gateway.url, 6) as load:
        load.more(12)
        gateway.process.send_signal(signal.SIGHUP)
        load.more(12)
        report = asyncio.run(switch_backend(Backend("lmstudio", other.base, "model-b"), env_file, ack_dir))
        assert report.workers == 2
        began = len(load.replies)
        gateway.process.send_signal(signal.SIGHUP)
        load.more(24)
        load.stop()
        assert load.errors == [] and {reply.status_code for reply in load.replies} == {200}
        # Six users may have asked before the switch was reported; nobody after it gets the old backend.
        assert {reply.json()["served_by"]["model"] for reply in load.replies[began + 6 :]} == {"model-b"}
        assert {worker.pid for worker in workers_of(gateway)} == pids, "SIGHUP restarts nobody"
        assert gateway.stop() == 0
    requests, responses = gateway.journal()
    assert set(requests) == set(responses) == load.ids
    folders = [path for path in (gateway.data_dir / "journal").iterdir() if path.is_dir()]
    assert len(folders) == 2, "a journal of its own for each worker"
    assert live_acks(ack_dir) == []


def test_hangup_makes_both_workers_read_the_file(start_gateway: Start, env: dict[str, str]) -> None:
    gateway = start_gateway(env)  # the poll of 60 s is too slow to notice
    with run_upstream("model-b") as other:
        values = {"LLM_API_BASE": other.base, "LLM_MODEL_NAME": "model-b", "LLM_PROFILE": "vllm", "LLM_GENERATION": "7"}
        write_env_file(Path(env["MULLE_ENV_FILE"]), values)
        gateway.process.send_signal(signal.SIGHUP)
        wait_until(lambda: [ack.generation for ack in live_acks(gateway.data_dir / "run" / "ack")] == [7, 7])


def test_sigterm_answers_and_logs_all_that_was_accepted(start_gateway: Start, env: dict[str, str]) -> None:
    gateway = start_gateway(env)
    with Load(gateway.url, 8) as load:
        load.more(16)
        assert gateway.stop() == 0
    requests, responses = gateway.journal()
    assert {reply.status_code for reply in load.replies} == {200}
    # Each accepted request has both halves, and its answer reached its user; others were refused a connection.
    assert set(requests) == set(responses) == load.ids
    assert {row["outcome"] for row in responses.values()} == {"answered"}
    assert all(isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError) for error in load.errors)


def test_killed_worker_is_replaced_and_loses_nothing_answered(start_gateway: Start, env: dict[str, str]) -> None:
    gateway = start_gateway(env)
    first, second = workers_of(gateway)
    with Load(gateway.url, 6) as load:
        load.more(12)
        os.kill(first.pid, signal.SIGKILL)
        load.more(12)  # by the other one
        assert second.is_running()
        wait_until(lambda: len(live_acks(gateway.data_dir / "run" / "ack")) == 2, 60)
        load.more(12)
        load.stop()
    assert len(load.errors) <= 6, "only what the dead worker had in hand"
    assert {reply.status_code for reply in load.replies} == {200}
    assert gateway.stop() == 0
    assert len(load.ids) == len(load.replies), "no id twice"
    paths = LakeSettings(data_dir=gateway.data_dir)
    report = ingest(paths, datetime.now(UTC))
    assert report.workers == 3 and report.alive == 0 and report.quarantine_reasons == {}
    assert report.total.pending == 0 and report.total.closes
    rows = scan_table(paths.lake_dir, "requests").collect()
    ids = rows["request_id"].to_list()
    assert len(ids) == len(set(ids)) and load.ids <= set(ids)
    lost = rows.filter(~rows["request_id"].is_in(load.ids))  # accepted by the worker that was killed, never answered
    assert len(lost) <= 6


def test_switch_while_a_worker_is_being_replaced(start_gateway: Start, env: dict[str, str]) -> None:
    env_file = Path(env["MULLE_ENV_FILE"])
    gateway = start_gateway({**env, "MULLE_BACKEND_POLL_S": "0.1"})
    ack_dir = gateway.data_dir / "run" / "ack"
    with run_upstream("model-b") as other:
        os.kill(workers_of(gateway)[1].pid, signal.SIGKILL)
        report = asyncio.run(switch_backend(Backend("vllm", other.base, "model-b"), env_file, ack_dir))
        assert report.workers in (1, 2)  # the new one may not be there yet; it reads the new file at its start
        wait_until(lambda: [ack.generation for ack in live_acks(ack_dir)] == [report.backend.generation] * 2, 60)
        assert {ack.model for ack in live_acks(ack_dir)} == {"model-b"}


def test_workers_of_a_killed_parent_finish_and_end(
    start_gateway: Start, env: dict[str, str], upstream: Upstream
) -> None:
    gateway = start_gateway(env)
    workers = workers_of(gateway)
    upstream.delay_s = 1.0
    with Load(gateway.url, 4) as load:
        seen = len(upstream.seen)
        wait_until(lambda: len(upstream.seen) >= seen + 4)
        os.kill(gateway.process.pid, signal.SIGKILL)
        gateway.process.wait(10)
        _, alive = psutil.wait_procs(workers, 20)
        assert alive == []
    with contextlib.suppress(httpx.TransportError):
        raise AssertionError(httpx.get(f"{gateway.url}/livez", trust_env=False))  # nobody listens any more
    requests, responses = gateway.journal()
    assert set(requests) == set(responses) == load.ids and len(load.ids) >= 4
