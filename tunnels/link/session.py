"""One set of transport keys between two neighbours (SPEC 4.5, 4.6).  Floor 3: sans-IO.

A session seals and opens; which session a link uses, and when it is renewed, is the link's business.
"""

from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import ECB

from tunnels.crypto import sodium
from tunnels.crypto.replay import ReplayWindow
from tunnels.errors import LocalError
from tunnels.ids import Drop, Index, Rng
from tunnels.link.handshake import SessionKeys
from tunnels.link.outbox import BlockCipher, Train, TrainPool
from tunnels.params import (
    BATCH_CELLS,
    COUNTER_LIMIT,
    COUNTER_START_LIMIT,
    HEADER_SIZE,
    MAX_TRAINS,
    SEALED_TEXT_SIZE,
    TAG_SIZE,
)
from tunnels.wire.cell import Command
from tunnels.wire.link_messages import LinkMessage

if TYPE_CHECKING:
    from tunnels.link.link import Link

SCRATCH_SIZE: Final = BATCH_CELLS * HEADER_SIZE + 15
"""Room that `cryptography` wants for a whole run of blocks."""


class Session:
    """Keys, counters and window of one session, and the trains that wait to be sent on it."""

    __slots__ = (
        "_decryptor",
        "_encryptor",
        "_pool",
        "_receive_seal",
        "_send_seal",
        "born",
        "cells_sent",
        "counter",
        "index",
        "initiator",
        "link",
        "peer_index",
        "proven",
        "room",
        "trains",
        "window",
    )

    def __init__(self, link: "Link", keys: SessionKeys, *, index: Index, peer_index: Index, initiator: bool,
                 now: float, rng: Rng, pool: TrainPool) -> None:  # fmt: skip
        self.link = link
        self.index: Final = index
        self.peer_index: Final = int(peer_index).to_bytes(4)
        self.initiator: Final = initiator
        """Whether we began it: then renewing it is our job (SPEC 4.5)."""
        self.born: Final = now
        self._encryptor: BlockCipher = Cipher(AES256(keys.send_header), ECB()).encryptor()  # noqa: S305 (a permutation, SPEC 2.1)
        self._decryptor: BlockCipher = Cipher(AES256(keys.receive_header), ECB()).decryptor()  # noqa: S305
        self._send_seal = sodium.Key(keys.send_seal)
        self._receive_seal = sodium.Key(keys.receive_seal)
        self._pool = pool
        self.counter = rng.below(COUNTER_START_LIMIT)
        """Of the next sealed cell."""
        self.window: Final = ReplayWindow()
        self.cells_sent = 0
        self.proven = False
        """Whether the neighbour was heard on it while it was the link's current one."""
        self.trains: list[Train] = []
        """Cells to send, oldest train first; only the last may have room."""
        self.room: Train | None = None
        """The last of `trains`.  A hot path asks it before it calls `train`."""

    def train(self) -> Train | None:
        """The train the next cell goes into, None when MAX_TRAINS wait already."""
        if (room := self.room) is not None:
            if room.count < BATCH_CELLS:
                return room
            if len(self.trains) == MAX_TRAINS:
                return None
        else:
            self.link.dirty(self)
        self.room = train = self._pool.take()
        self.trains.append(train)
        return train

    def take_trains(self) -> list[Train]:
        """What waits, oldest first, to be finished and given back to the pool."""
        trains, self.trains, self.room = self.trains, [], None
        return trains

    def open_headers(self, blocks: bytes, into: bytearray) -> None:
        """Decrypt a run of header blocks (SPEC 2.1); `into` has SCRATCH_SIZE bytes."""
        self._decryptor.update_into(blocks, into)

    def seal(self, command: Command, text: bytes, rng: Rng) -> bool:
        """Queue a sealed cell (SPEC 4.6).

        Args:
            text: circuit id and content; random bytes are added.

        Returns:
            Whether there was room.
        """
        train = self.train()
        if train is None:
            return False
        self._seal_into(train, command, text, rng)
        return True

    def single(self, message: LinkMessage, rng: Rng, scratch: bytearray) -> bytes:
        """One sealed cell as it goes on the wire, for an address that is not the link's (SPEC 4.7)."""
        train = self._pool.take()
        self._seal_into(train, message.COMMAND, message.encode(), rng)
        cell = bytes(self.finish(train, scratch))
        self._pool.give(train)
        return cell

    def _seal_into(self, train: Train, command: Command, text: bytes, rng: Rng) -> None:
        if len(text) > SEALED_TEXT_SIZE:
            raise LocalError(f"a sealed cell holds {SEALED_TEXT_SIZE} bytes, not {len(text)}")
        body = train.place()
        start = body + TAG_SIZE
        train.buffer[start : start + SEALED_TEXT_SIZE] = text + rng.bytes(SEALED_TEXT_SIZE - len(text))
        nonce = train.head(0, command, self.counter)
        at = train.at + start
        sodium.seal_at(at, train.at + body, None, at, SEALED_TEXT_SIZE, None, 0, None, nonce, self._send_seal.at)
        train.count += 1
        self.counter += 1

    def open(self, buffer: bytearray | memoryview, at: int, body: int, nonce: int, counter: int) -> bytes | Drop:
        """Open a sealed cell in place (SPEC 4.6).

        Args:
            at: address of `buffer`.
            nonce: address of the cell's nonce.

        Returns:
            Circuit id, content and padding, or why the cell is dropped: then nothing changed.
        """
        if not self.window.fresh(counter):
            return Drop.REPLAYED if counter < COUNTER_LIMIT else Drop.BAD_COUNTER
        start = body + TAG_SIZE
        if sodium.open_at(
            at + start, None, at + start, SEALED_TEXT_SIZE, at + body, None, 0, nonce, self._receive_seal.at
        ):
            return Drop.BAD_TAG
        self.window.mark(counter)
        return bytes(buffer[start : start + SEALED_TEXT_SIZE])

    def finish(self, train: Train, scratch: bytearray) -> memoryview:
        """The cells of `train` as they go on the wire."""
        self.cells_sent += train.count
        return train.seal_headers(self.peer_index, self._encryptor, scratch)

    def wipe(self) -> None:
        """Forget the keys we hold ourselves; those inside `cryptography` go with its objects."""
        self._send_seal.wipe()
        self._receive_seal.wipe()
        for train in self.take_trains():
            self._pool.give(train)
