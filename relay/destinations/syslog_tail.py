"""What was sent last and may be lost all the same: the memory that is sent again after a lost connection.

Owns which bytes are in it and for how long. Pure: times are arguments, in monotonic seconds; never sends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

_PIECE = 256 * 1024  # bytes sent again at a time


@dataclass(frozen=True, slots=True)
class _Sent:
    at: float
    data: bytes  # whole frames
    share: float = 1.0  # of the window; halved whenever it is sent again


class Tail:
    """The last *window* seconds of what was sent: at most *max_bytes*, and at least the newest chunk."""

    def __init__(self, window: float, max_bytes: int) -> None:
        self._window = window
        self._max_bytes = max_bytes
        self._sent: deque[_Sent] = deque()
        self._bytes = 0

    def __bool__(self) -> bool:
        return bool(self._sent)

    def __len__(self) -> int:
        """Bytes in memory."""
        return self._bytes

    def add(self, at: float, data: bytes) -> None:
        """*data* was handed over from *at* on and acknowledged by the other side's TCP."""
        if self._window == 0:
            return
        self.expire(at)
        self._sent.append(_Sent(at, data))
        self._bytes += len(data)
        while self._bytes > self._max_bytes and len(self._sent) > 1:
            self._forget_oldest()

    def expire(self, moment: float, unnoticed: float = 0.0) -> None:
        """Forget what was sent more than the window, and *unnoticed* seconds, before *moment*.

        Bytes that were sent again are forgotten earlier, twice as early each time. A server that closes
        quiet connections would otherwise be sent the same events for ever.
        """
        horizon = self._window + unnoticed
        while self._sent and self._sent[0].at < moment - horizon * self._sent[0].share:
            self._forget_oldest()

    def pieces(self) -> Iterator[bytes]:
        """Everything, oldest first, in pieces worth an acknowledgement each."""
        piece: list[bytes] = []
        size = 0
        for sent in tuple(self._sent):
            piece.append(sent.data)
            size += len(sent.data)
            if size >= _PIECE:
                yield b"".join(piece)
                piece, size = [], 0
        if piece:
            yield b"".join(piece)

    def was_sent_again(self, at: float) -> None:
        """Everything went out once more, and may be lost once more."""
        self._sent = deque(_Sent(at, sent.data, sent.share / 2) for sent in self._sent)

    def clear(self) -> None:
        self._sent.clear()
        self._bytes = 0

    def _forget_oldest(self) -> None:
        self._bytes -= len(self._sent.popleft().data)
