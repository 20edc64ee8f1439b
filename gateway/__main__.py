"""Runs the gateway: python -m gateway

This process opens the port once, starts MULLE_WORKERS workers (gateway/worker.py) and looks after them
(gateway/supervisor.py); signals go to it. SIGHUP: read the env file again. SIGTERM or SIGINT: readiness fails at once,
no new connections, open requests end (at most MULLE_DRAIN_TIMEOUT_S), journals are closed, exit code 0. It loads no
model and imports no numpy. A wrong setting, a port in use, a missing model or an unwritable journal is one line and an
exit code.
"""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Sequence

from pydantic import ValidationError

from gateway.access_settings import AccessSettings
from gateway.keys import KeyStore, check_exposure, keys_path
from gateway.logs import configure_logs
from gateway.settings import GatewaySettings
from gateway.supervisor import Supervisor
from gateway.worker_settings import WorkerSettings
from lake.errors import PortInUseError, SetupError
from lake.settings import LakeSettings, settings_error
from serving.cli import exit_code


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


def main() -> int:
    """Serve until a signal; 0 after a clean end."""
    try:
        settings, workers = GatewaySettings(), WorkerSettings()
        keys_file = keys_path(AccessSettings(), LakeSettings())
    except ValidationError as error:
        raise settings_error(error) from error
    configure_logs(settings.log_level)
    check_exposure(settings.host, KeyStore(keys_file).usable)
    listener = open_socket(settings.host, settings.port)
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host

    def command(slot: int, starts: int, channel_fd: int) -> Sequence[str]:
        argv = [sys.executable, "-m", "gateway.worker", "--slot", str(slot), "--starts", str(starts)]
        return [*argv, "--listen-fd", str(listener.fileno()), "--channel-fd", str(channel_fd)]

    return Supervisor(
        command,
        listener,
        workers.workers,
        drain_timeout_s=settings.drain_timeout_s,
        start_timeout_s=workers.worker_start_timeout_s,
        tries=workers.worker_start_tries,
        backoff_max_s=workers.worker_backoff_max_s,
        on_ready=lambda: print(f"gateway: listening on http://{shown}:{port}", flush=True),
    ).run()


if __name__ == "__main__":
    sys.exit(exit_code(main))
