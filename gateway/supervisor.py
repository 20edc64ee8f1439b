"""The parent of the gateway's workers: starts them, starts dead ones anew, hands signals on, ends them in order.

Its own loop and not uvicorn's supervisor, which answers SIGHUP by restarting its workers. Each worker is a process of
its own (not a fork: the parent has no models in memory) that inherits the listening socket and one end of a socket
pair. The worker says "ready" on it; both sides see the other's death as its end of file, also after kill -9.

Invariants: the listening socket stays open while a worker is away, so connections wait and are not refused; SIGHUP
goes only to workers that handle it; nobody survives `run`. A first worker that can't start ends everything with its
exit code (its one line is on stderr); a later one is tried again, ever more slowly, and ends everything only after
`tries` failures in a row while no other worker serves.
"""

from __future__ import annotations

import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

READY = b"R"
CLOSE_S = 12.0  # beyond the drain time: a worker waits up to 10 s for its journal to close
_STABLE_S = 10.0  # a worker that served this long was not a failed start
_BACKOFF_S = 0.5  # doubled with each failure in a row
log = structlog.get_logger("gateway.supervisor")


@dataclass(eq=False, slots=True)
class _Slot:
    """One worker's place. Times are of `time.monotonic`."""

    number: int
    process: subprocess.Popen[bytes] | None = None
    channel: socket.socket | None = None
    ready_at: float | None = None
    kill_at: float | None = None
    start_at: float = 0.0
    starts: int = 0
    failures: int = 0  # in a row

    @property
    def is_ready(self) -> bool:
        return self.process is not None and self.ready_at is not None


class Supervisor:
    """`command(slot, starts, channel_fd)` is a worker's argument vector; `listener` is inherited under its own number.

    `on_ready` is called once, when all workers are ready for the first time. One `run` a supervisor; main thread only.
    """

    def __init__(
        self,
        command: Callable[[int, int, int], Sequence[str]],
        listener: socket.socket,
        count: int,
        *,
        drain_timeout_s: float,
        start_timeout_s: float = 300.0,
        tries: int = 5,
        backoff_max_s: float = 15.0,
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        self._command = command
        self._listener = listener
        self._slots = [_Slot(number) for number in range(count)]
        self._drain_timeout_s = drain_timeout_s
        self._start_timeout_s = start_timeout_s
        self._tries = tries
        self._backoff_max_s = backoff_max_s
        self._on_ready = on_ready
        self._selector = selectors.DefaultSelector()
        self._served = False  # a worker was ready once
        self._announced = False
        self._draining = False
        self._code = 0

    def run(self) -> int:
        """Until SIGTERM, SIGINT or a hopeless worker; the exit code of the whole. Leaves no worker behind."""
        wake, wake_in = socket.socketpair()
        wake.setblocking(False)
        wake_in.setblocking(False)
        self._selector.register(wake, selectors.EVENT_READ)
        handled = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
        before = {number: signal.signal(number, lambda *_: None) for number in handled}
        old_wake = signal.set_wakeup_fd(wake_in.fileno(), warn_on_full_buffer=False)
        try:
            while True:
                self._start_due()
                for key, _ in self._selector.select(self._wait_s()):
                    if key.fileobj is wake:
                        self._signals(wake.recv(4096))
                    else:
                        self._heard(key.data)
                self._kill_due()
                self._reap()
                if self._draining and not any(slot.process for slot in self._slots):
                    return self._code
        finally:
            for slot in self._slots:
                if slot.process is not None:  # only after an error of our own
                    slot.process.kill()
                    slot.process.wait()
            signal.set_wakeup_fd(old_wake)
            for number, handler in before.items():
                signal.signal(number, handler)
            self._selector.close()
            wake.close()
            wake_in.close()

    def _start_due(self) -> None:
        # The first worker alone: what is wrong with the settings or the models is then said once.
        due = self._slots if self._served else self._slots[:1]
        for slot in due:
            if slot.process is None and not self._draining and time.monotonic() >= slot.start_at:
                self._start(slot)

    def _start(self, slot: _Slot) -> None:
        ours, theirs = socket.socketpair()
        slot.starts += 1
        try:
            slot.process = subprocess.Popen(
                list(self._command(slot.number, slot.starts, theirs.fileno())),
                stdin=subprocess.DEVNULL,
                pass_fds=(self._listener.fileno(), theirs.fileno()),
            )
        finally:
            theirs.close()
        slot.channel = ours
        slot.ready_at = None
        slot.kill_at = time.monotonic() + self._start_timeout_s
        self._selector.register(ours, selectors.EVENT_READ, slot)
        log.debug("worker_started", worker=slot.number, pid=slot.process.pid, starts=slot.starts)

    def _wait_s(self) -> float | None:
        """Until the next thing that is due by the clock."""
        if self._draining:
            due = [slot.kill_at for slot in self._slots if slot.process and slot.kill_at is not None]
        else:
            slots = self._slots if self._served else self._slots[:1]
            due = [slot.start_at for slot in slots if slot.process is None]
            due += [slot.kill_at for slot in self._slots if slot.process and slot.kill_at is not None]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _signals(self, numbers: bytes) -> None:
        if signal.SIGHUP in numbers and not self._draining:
            for slot in self._slots:
                if slot.is_ready:  # one that is still loading reads the file at its end
                    self._send(slot, signal.SIGHUP)
        if signal.SIGTERM in numbers or signal.SIGINT in numbers:
            if self._draining and signal.SIGINT in numbers:  # Ctrl-C again: whoever presses it twice wants out
                for slot in self._slots:
                    slot.kill_at = time.monotonic()
            else:
                self._drain()

    def _drain(self) -> None:
        if self._draining:
            return
        self._draining = True
        self._listener.close()  # else new connections would wait here for workers that accept no more
        log.info("draining", timeout_s=self._drain_timeout_s)
        for slot in self._slots:
            slot.kill_at = time.monotonic() + self._drain_timeout_s + CLOSE_S
            self._send(slot, signal.SIGTERM)

    def _send(self, slot: _Slot, number: signal.Signals) -> None:
        if slot.process is not None:
            slot.process.send_signal(number)  # does nothing where it has ended

    def _heard(self, slot: _Slot) -> None:
        assert slot.channel is not None
        try:
            said = slot.channel.recv(64)
        except ConnectionResetError:
            said = b""
        if not said:  # its end is near or past: `_reap` learns which
            self._selector.unregister(slot.channel)
            slot.channel.close()
            slot.channel = None
            return
        if READY in said and slot.ready_at is None and slot.process is not None:
            slot.ready_at, self._served = time.monotonic(), True
            if not self._draining:
                slot.kill_at = None
            log.info("worker_ready", worker=slot.number, pid=slot.process.pid, starts=slot.starts)
            if not self._announced and all(each.is_ready for each in self._slots):
                self._announced = True
                self._on_ready()

    def _kill_due(self) -> None:
        for slot in self._slots:
            if slot.process is not None and slot.kill_at is not None and time.monotonic() >= slot.kill_at:
                why = "not ended in time" if self._draining else "not ready in time"
                log.error("worker_killed", worker=slot.number, pid=slot.process.pid, reason=why)
                slot.process.kill()
                slot.kill_at = None

    def _reap(self) -> None:
        for slot in self._slots:
            code = slot.process.poll() if slot.process is not None else None
            if code is not None:
                self._ended(slot, code)

    def _ended(self, slot: _Slot, code: int) -> None:
        assert slot.process is not None
        pid, slot.process = slot.process.pid, None
        if slot.channel is not None:
            self._selector.unregister(slot.channel)
            slot.channel.close()
            slot.channel = None
        if self._draining:
            # SIGTERM ends a worker that was still loading: it had accepted nothing.
            if code not in (0, -signal.SIGTERM):
                log.error("worker_ended_badly", worker=slot.number, pid=pid, code=code)
                self._code = self._code or _exit_code(code)
            return
        served_s = time.monotonic() - slot.ready_at if slot.ready_at is not None else 0.0
        if not self._served:
            self._code = _exit_code(code)
            self._drain()
            return
        slot.failures = 1 if served_s >= _STABLE_S else slot.failures + 1
        delay_s = 0.0 if served_s >= _STABLE_S else min(self._backoff_max_s, _BACKOFF_S * 2 ** (slot.failures - 1))
        slot.start_at = time.monotonic() + delay_s
        log.error(
            "worker_died", worker=slot.number, pid=pid, code=code, served_s=round(served_s, 1), again_in_s=delay_s
        )
        if slot.failures >= self._tries and not any(each.is_ready for each in self._slots):
            log.error("giving_up", worker=slot.number, failures=slot.failures)
            self._code = _exit_code(code)
            self._drain()


def _exit_code(code: int) -> int:
    """The shell's: 128 and the signal's number for a process that a signal ended; never 0."""
    return 128 - code if code < 0 else code or 1
