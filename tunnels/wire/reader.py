"""Reading bytes that somebody else wrote: every step is checked against the end.  Floor 1 (wire).

Knows no message.  Whatever the input, a Reader raises RemoteError and nothing else.
"""

from tunnels.errors import RemoteError


class Reader:
    """A position in `data` that only moves forward."""

    __slots__ = ("_at", "_data", "_end")

    def __init__(self, data: bytes | bytearray | memoryview) -> None:
        self._data = memoryview(data)
        self._at = 0
        self._end = len(self._data)

    @property
    def remaining(self) -> int:
        """Bytes not read yet."""
        return self._end - self._at

    def take(self, size: int) -> bytes:
        """The next `size` bytes, copied: a slice would keep the whole receive buffer alive."""
        end = self._at + size
        if not self._at <= end <= self._end:
            raise RemoteError(f"{size} bytes expected, {self.remaining} left")
        piece = self._data[self._at : end].tobytes()
        self._at = end
        return piece

    def peek(self) -> int:
        """The next byte, which stays: it says what follows."""
        if self._at == self._end:
            raise RemoteError("1 byte expected, 0 left")
        return self._data[self._at]

    def u8(self) -> int:
        return int.from_bytes(self.take(1))

    def u16(self) -> int:
        return int.from_bytes(self.take(2))

    def u32(self) -> int:
        return int.from_bytes(self.take(4))

    def u48(self) -> int:
        return int.from_bytes(self.take(6))

    def rest(self) -> bytes:
        """Everything that is left."""
        return self.take(self.remaining)

    def end(self) -> None:
        """Insist that nothing is left.

        Raises:
            RemoteError: there is.
        """
        if self._at != self._end:
            raise RemoteError(f"{self.remaining} bytes too many")
