"""Runs the gateway: python -m gateway

One worker, launched here and not by uvicorn's command line: its supervisor answers SIGHUP by restarting
workers. SIGTERM and SIGINT stop accepting, let open requests end (at most MULLE_DRAIN_TIMEOUT_S) and close
the journal; SIGHUP reads the env file again. A port in use, a missing model or an unwritable journal is one
line and an exit code.
"""

from __future__ import annotations

import errno
import signal
import socket
import sys
from types import FrameType

import uvicorn
from pydantic import ValidationError

from gateway.app import create_app
from gateway.logs import configure_logs
from gateway.parts import Config, Parts
from gateway.settings import GatewaySettings, ProcessLLMSettings
from lake.errors import PortInUseError, SetupError
from lake.settings import LakeSettings
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
            llm=ProcessLLMSettings().mapping() if gateway.env_file is None else {},
        )
    except ValidationError as error:
        wrong = "; ".join(
            f"MULLE_{'.'.join(str(part) for part in entry['loc']).upper()}: {entry['msg']}" for entry in error.errors()
        )
        raise SetupError(f"A setting is wrong: {wrong}.") from error


def open_socket(host: str, port: int) -> socket.socket:
    """A listening socket. Raises `PortInUseError`, or `SetupError` where the address is not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(2048)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUseError(
                f"Port {port} on {host} is in use: stop what listens there, or set MULLE_PORT to another.",
                port=port,
            ) from error
        raise SetupError(
            f"The gateway can't listen on {host}:{port} ({error}): set MULLE_HOST and MULLE_PORT."
        ) from error
    return listener


class GatewayServer(uvicorn.Server):
    """uvicorn, which tells readiness at the first signal that the end has begun."""

    def __init__(self, config: uvicorn.Config, parts: Parts) -> None:
        super().__init__(config)
        self._parts = parts

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._parts.begin_drain()
        super().handle_exit(sig, frame)


def main() -> int:
    """Serve until a signal; 0 after a clean end."""
    config = read_config()
    settings = config.gateway
    configure_logs(settings.log_level)
    listener = open_socket(settings.host, settings.port)
    parts = Parts(config)
    signal.signal(signal.SIGHUP, lambda *_: parts.backends.request_reload())
    server = GatewayServer(
        uvicorn.Config(
            create_app(config, parts),
            loop="uvloop",
            http="httptools",
            ws="none",
            lifespan="on",
            access_log=False,
            log_level=settings.log_level,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=max(1, round(settings.drain_timeout_s)),
        ),
        parts,
    )
    host, port = listener.getsockname()[:2]
    print(f"gateway: listening on http://{host}:{port}", flush=True)
    # uvicorn raises the signal again once it has ended; the orderly end was the answer to it.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    server.run(sockets=[listener])
    return 0 if server.started else SetupError.exit_code


if __name__ == "__main__":
    sys.exit(exit_code(main))
