"""Cells on their way out, in trains that one UDP_SEGMENT call can send (SPEC 2.1).  Floor 3.

HOT PATH.  A cell is written once, where it will be sent from: `place()` names the spot, the caller writes the body
there, `commit` writes the plain header block beside it.  `seal_headers` then encrypts all blocks of a train in one AES
call.

  cost    about 0.1 us a cell for sealing headers in a full train, 0.5 us for a train of one
  memory  65 kB a train that is being filled; trains come from a pool and go back to it
"""

from struct import Struct
from typing import Final, Protocol

from tunnels.crypto import sodium
from tunnels.crypto.onion import WRAP_SLACK
from tunnels.params import BATCH_CELLS, BODY_OFFSET, CELL_SIZE, HEADER_SIZE, INDEX_SIZE
from tunnels.wire.cell import COUNTER_SHIFT, HEADER, NONCE_OFFSET, ZEROS

_blocks: Final = Struct(f"{HEADER_SIZE}s").iter_unpack
_put_head: Final = Struct(f"{INDEX_SIZE}s{HEADER_SIZE}s").pack_into
"""Struct's C code, because slices cost three times as much."""


class BlockCipher(Protocol):
    """AES in ECB mode, one direction: `cryptography`'s CipherContext."""

    def update_into(self, data: bytes | bytearray | memoryview, buf: bytearray | memoryview) -> int:
        """Whole blocks in, as many bytes out; `buf` has room for 15 more."""


class Train:
    """Up to BATCH_CELLS cells for one session."""

    __slots__ = ("at", "buffer", "count", "headers", "headers_at")

    def __init__(self) -> None:
        self.buffer: Final = bytearray(BATCH_CELLS * CELL_SIZE + WRAP_SLACK)
        self.at: Final = sodium.address_of(self.buffer)
        self.headers: Final = bytearray(BATCH_CELLS * HEADER_SIZE)
        self.headers_at: Final = sodium.address_of(self.headers)
        self.count = 0

    def place(self) -> int:
        """Where the body of the next cell goes."""
        return self.count * CELL_SIZE + BODY_OFFSET

    def head(self, circuit_id: int, command: int, counter: int) -> int:
        """Write the plain header block of the next cell.

        Returns:
            The address of its nonce, good until the train is sent.
        """
        start = self.count * HEADER_SIZE
        HEADER.pack_into(self.headers, start, circuit_id, command, counter << COUNTER_SHIFT, ZEROS)
        return self.headers_at + start + NONCE_OFFSET

    def seal_headers(self, index: bytes, cipher: BlockCipher, scratch: bytearray) -> memoryview:
        """Encrypt every header block into its cell.

        Returns:
            The finished cells, good until the train is used again.
        """
        count, buffer = self.count, self.buffer
        size = count * HEADER_SIZE
        cipher.update_into(memoryview(self.headers)[:size], scratch)
        start = 0
        for (block,) in _blocks(memoryview(scratch)[:size]):
            _put_head(buffer, start, index, block)
            start += CELL_SIZE
        return memoryview(buffer)[:start]


class TrainPool:
    """Trains that are not in use.  Bounded: what comes back beyond `keep` is left to the collector."""

    def __init__(self, keep: int = 256) -> None:
        self._free: list[Train] = []
        self._keep = keep

    def take(self) -> Train:
        return self._free.pop() if self._free else Train()

    def give(self, train: Train) -> None:
        train.count = 0
        if len(self._free) < self._keep:
            self._free.append(train)
