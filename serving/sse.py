"""Server-Sent Events out of a byte stream that may be cut anywhere. Pure.

Follows https://html.spec.whatwg.org/multipage/server-sent-events.html, section 9.2.6: lines end with LF, CR or CRLF,
`:` lines are comments, several `data:` lines of one event are joined. Two leniences that LLM servers need: what stands
before the end of the stream counts without its empty line, and `data: [DONE]` counts at once.

Invariant: the events do not depend on how the bytes were cut; no line or event longer than `max_bytes` is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

DONE = b"[DONE]"
_BOM = b"\xef\xbb\xbf"


class EventTooLong(ValueError):
    """A line or an event is longer than `max_bytes`."""


@dataclass(frozen=True, slots=True)
class Event:
    """`name` is "message" where the server gives none; `data` is undecoded."""

    name: str
    data: bytes


class EventReader:
    """Feed it bytes, it gives events. For one stream; of no use after `EventTooLong`."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._rest = bytearray()  # a line that has not ended yet
        self._after_cr = False  # a LF that comes next belongs to the CR before it
        self._started = False
        self._name = ""
        self._data: list[bytes] = []
        self._data_bytes = 0

    def feed(self, piece: bytes) -> Iterator[Event]:
        """The events that end within `piece`, in order; take them all. Raises `EventTooLong`."""
        if not self._started:
            piece = bytes(self._rest) + piece
            if len(piece) < len(_BOM) and _BOM.startswith(piece):
                self._rest = bytearray(piece)
                return
            self._started = True
            self._rest.clear()
            piece = piece.removeprefix(_BOM)
        if self._after_cr and piece:
            self._after_cr = False
            piece = piece.removeprefix(b"\n")
        if b"\n" in piece or b"\r" in piece:  # else nothing ends here, and what waits is not copied again
            self._after_cr = piece.endswith(b"\r")
            # bytes.splitlines splits at these two only, unlike str.splitlines
            first, *lines = piece.splitlines() or [b""]
            lines = [bytes(self._rest) + first, *lines]
            self._rest = bytearray() if piece.endswith((b"\n", b"\r")) else bytearray(lines.pop())
            for line in lines:
                yield from self._take(line)
        else:
            self._rest += piece
        if len(self._rest) > self._max_bytes:
            raise EventTooLong(f"a line is longer than {self._max_bytes} bytes")

    def end(self) -> Iterator[Event]:
        """The events that the end of the stream completes; take them all."""
        self._started = True
        for line in (bytes(self._rest), b""):
            yield from self._take(line)
        self._rest.clear()

    def _take(self, line: bytes) -> Iterator[Event]:
        if len(line) > self._max_bytes:
            raise EventTooLong(f"a line is longer than {self._max_bytes} bytes")
        if not line:
            yield from self._dispatch()
            return
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            if value.strip() == DONE:
                yield from self._dispatch()
                yield Event("message", DONE)
                return
            self._data.append(value)
            self._data_bytes += len(value) + 1
            if self._data_bytes > self._max_bytes:
                raise EventTooLong(f"an event is longer than {self._max_bytes} bytes")
        elif field == b"event":
            self._name = value.decode("utf-8", "replace")
        elif field == b"error":  # older llama.cpp wrote `error: {...}` in place of an event
            yield from self._dispatch()
            yield Event("error", value)

    def _dispatch(self) -> Iterator[Event]:
        name, data = self._name or "message", self._data
        self._name, self._data, self._data_bytes = "", [], 0
        if data:
            yield Event(name, b"\n".join(data))
