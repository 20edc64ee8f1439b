"""One worker of the gateway, started by its parent (gateway/supervisor.py), not by hand.

Loads everything, serves the inherited socket, tells the parent "ready" over the channel. SIGTERM, or the parent's
death (end of file on the channel): readiness fails at once, open requests end within MULLE_DRAIN_TIMEOUT_S, the journal
is closed; an alarm ends what hangs beyond that, since after the parent's death nobody else would. SIGHUP reads the env
file again. SIGINT is the parent's: Ctrl-C reaches the whole process group, and the parent turns it into one SIGTERM.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence

import uvicorn
from pydantic import ValidationError

from gateway.access_settings import AccessSettings
from gateway.app import create_app
from gateway.http_protocol import guarded_protocol
from gateway.logs import configure_logs
from gateway.metrics_peers import WorkerPeers
from gateway.parts import Config, Parts
from gateway.resilience_settings import FallbackLLMSettings, ResilienceSettings
from gateway.settings import GatewaySettings, ProcessLLMSettings, set_values
from gateway.supervisor import CLOSE_S, READY
from gateway.tracing_settings import TracingSettings
from gateway.worker_settings import WorkerSettings
from lake.errors import SetupError
from lake.settings import LakeSettings, settings_error
from serving.cli import exit_code
from serving.prompting import PromptSettings
from serving.retrieval_settings import RetrievalSettings
from serving.settings import ServingSettings


def read_config() -> Config:
    """All settings from the environment. Raises `SetupError` naming each variable that is wrong."""
    try:
        gateway = GatewaySettings()
        return Config(
            gateway=gateway,
            lake=LakeSettings(),
            serving=ServingSettings(),
            retrieval=RetrievalSettings(),
            prompt=PromptSettings(),
            llm=process_llm() if gateway.env_file is None else {},
            access=AccessSettings(),
            resilience=ResilienceSettings(),
            tracing=TracingSettings(),
            workers=WorkerSettings().workers,
        )
    except ValidationError as error:
        raise settings_error(error) from error


def process_llm() -> dict[str, str]:
    """`LLM_*`, `LLM_FALLBACK_*` and `OPENAI_*` of the process environment."""
    return {**set_values(ProcessLLMSettings()), **set_values(FallbackLLMSettings())}


class WorkerServer(uvicorn.Server):
    """uvicorn with our signals: they are handled on the event loop, between two steps of any request."""

    def __init__(self, config: uvicorn.Config, parts: Parts, channel: socket.socket) -> None:
        super().__init__(config)
        self._parts = parts
        self._channel = channel

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn would install its own here and raise the signal again at the end."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self._parts.backends.request_reload)
        self._channel.setblocking(False)
        loop.add_reader(self._channel, self._heard)
        await super().startup(sockets)
        with contextlib.suppress(OSError):  # the parent has just died: `_heard` comes next
            self._channel.send(READY)

    def stop(self) -> None:
        """Begin the end. Safe to repeat."""
        if not self.should_exit:
            self.should_exit = True
            self._parts.begin_drain()
            signal.alarm(round(self._parts.settings.drain_timeout_s + CLOSE_S) + 3)

    def _heard(self) -> None:
        try:
            if self._channel.recv(64):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        asyncio.get_running_loop().remove_reader(self._channel)
        self.stop()


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m gateway.worker", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--slot", type=int, required=True, help="number of this worker, from 0")
    parser.add_argument("--starts", type=int, required=True, help="how often this worker has been started")
    parser.add_argument("--listen-fd", type=int, required=True, help="the inherited listening socket")
    parser.add_argument("--channel-fd", type=int, required=True, help="the inherited socket to the parent")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or the parent's death; 0 after a clean end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the loop handles it: the env file is read after that
    args = make_parser().parse_args(argv)
    config = read_config()
    settings = config.gateway
    configure_logs(settings.log_level, args.slot)
    parts = Parts(config)
    parts.metrics.starts.set(args.starts)
    folder = config.lake.run_dir / "workers"
    try:
        peers = WorkerPeers(parts.metrics.registry, folder, str(os.getppid()), args.slot, config.workers)
    except OSError as error:
        raise SetupError(f"{folder} can't hold the workers' sockets ({error}): make it a writable folder.") from error
    parts.metrics.peers = peers
    server = WorkerServer(
        uvicorn.Config(
            create_app(config, parts),
            loop="uvloop",
            http=guarded_protocol(config.access, parts.metrics, settings.max_body_bytes),
            ws="none",
            lifespan="on",
            access_log=False,
            log_level=settings.log_level,
            log_config=None,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=max(1, round(settings.drain_timeout_s)),
        ),
        parts,
        socket.socket(fileno=args.channel_fd),
    )
    try:
        server.run(sockets=[socket.socket(fileno=args.listen_fd)])
    finally:
        peers.close()
    return 0 if server.started else SetupError.exit_code


if __name__ == "__main__":
    sys.exit(exit_code(main))
