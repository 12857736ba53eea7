"""The layers of a circuit, in place (SPEC 6).  Floor 2: keys, no clock, no sockets, no idea of links.

HOT PATH.  A relay runs `RelayLayer.open_forward` or `RelayLayer.pass_backward` once for every cell it forwards, an
originator `OriginLayers.wrap` and `OriginLayers.peel`.

  cost    one libsodium call a cell and hop, plus two short ones an inner hop in `wrap`.  `open_forward` takes 2.5 us,
          libsodium 2.0 of them (0.7 to get there, 1.3 inside): more than half of what a relay does for a cell
          (python -m bench relay)
  copies  none: layers are opened from the receive buffer straight into the place of the next cell
  memory  `wrap` works up to WRAP_SLACK bytes beyond the cell; the bytes there are scratch

Bodies are named by their offset in a buffer and the buffer by its address: the caller keeps it alive and in bounds.
"""

import struct
from typing import Final

from tunnels.crypto import sodium
from tunnels.crypto.handshake import HopKeys
from tunnels.crypto.replay import WINDOW_MASK, ReplayWindow
from tunnels.errors import LocalError
from tunnels.ids import Drop, Rng
from tunnels.params import (
    AREA_SIZE,
    BODY_SIZE,
    COUNTER_LIMIT,
    COUNTER_START_LIMIT,
    FILLERS_PER_CHUNK,
    FLAG_SIZE,
    LAYER_SIZE,
    LAYER_TEXT_SIZE,
    MAX_HOPS,
    PASS_SIZE,
    PAYLOAD_SIZE,
    TAG_SIZE,
)
from tunnels.wire.cell import Command
from tunnels.wire.cell import nonce as nonce_for

PASS_ON: Final = 0
FOR_YOU: Final = 1
"""Flag of a forward layer (SPEC 6.1)."""

PASSED: Final = 0
WRITTEN: Final = 1
"""Flag of a backward body (SPEC 6.2)."""

WRAP_SLACK: Final = (MAX_HOPS - 1) * LAYER_SIZE
"""Bytes behind a cell that `OriginLayers.wrap` uses as scratch."""

_REST: Final = BODY_SIZE - LAYER_SIZE
"""What a forward hop passes on, before the filler: 1313."""

_CHUNK: Final = FILLERS_PER_CHUNK * LAYER_SIZE
_put_filler: Final = struct.Struct(f"{LAYER_SIZE}s").pack_into
"""Half the cost of assigning to a slice."""

_BACKWARD_TAIL: Final = BODY_SIZE - FLAG_SIZE - TAG_SIZE - AREA_SIZE
_FILLER_NONCE: Final = struct.Struct(">IQ")


class _Filler:
    """The bytes a hop appends, 64 cells at a time (SPEC 6.1)."""

    __slots__ = ("_chunk", "_key", "_number", "_other", "_other_number")

    def __init__(self, key: bytes) -> None:
        self._key = sodium.Key(key)
        self._number = self._other_number = -1
        self._chunk, self._other = bytearray(_CHUNK), bytearray(_CHUNK)

    def of(self, counter: int) -> bytearray:
        number, place = divmod(counter, FILLERS_PER_CHUNK)
        if number != self._number:
            self._turn_to(number)
        start = place * LAYER_SIZE
        return self._chunk[start : start + LAYER_SIZE]

    def _turn_to(self, number: int) -> None:
        """Make chunk `number` the current one.  The one before is kept: cells that overtake each other change chunks
        to and fro.
        """
        self._number, self._other_number = self._other_number, self._number
        self._chunk, self._other = self._other, self._chunk
        if number != self._number:
            sodium.stream_at(sodium.address_of(self._chunk), _CHUNK, _FILLER_NONCE.pack(0, number), self._key.at)
            self._number = number

    def wipe(self) -> None:
        self._key.wipe()
        sodium.wipe(self._chunk)
        sodium.wipe(self._other)


class RelayLayer:
    """One hop's side of its layer."""

    __slots__ = (
        "_backward",
        "_filler",
        "_forward",
        "_forward_at",
        "_rng",
        "_seal",
        "backward_counter",
        "offset",
        "window",
    )

    def __init__(self, keys: HopKeys, rng: Rng) -> None:
        self._forward = sodium.Key(keys.forward)
        self._forward_at = self._forward.at
        self._backward = sodium.Key(keys.backward)
        self._seal = sodium.Key(keys.seal)
        self._filler = _Filler(keys.filler)
        self._rng = rng
        self.offset: Final = keys.counter_offset
        self.window: Final = ReplayWindow()
        self.backward_counter = rng.below(COUNTER_START_LIMIT)
        """Counter of the next backward cell; its writer adds one (SPEC 6.2)."""

    def open_forward(self, body: int, nonce: int, counter: int, out: bytearray, at: int, place: int) -> int | Drop:
        """Verify and strip the layer of one cell (SPEC 6.1).

        Args:
            body: address of the received body.
            nonce: address of the received nonce.
            counter: the same counter as a number.
            out: where the next body goes, at `place`; the byte before it is overwritten with the flag.
            at: address of `out`.

        Returns:
            The flag, or why the cell is dropped: then nothing of the layer's state changed.
        """
        window = self.window
        in_order = counter == window.last + 1 < COUNTER_LIMIT
        if not in_order and not window.fresh(counter):
            return Drop.REPLAYED if counter < COUNTER_LIMIT else Drop.BAD_COUNTER
        flag = place - FLAG_SIZE
        if sodium.open_at(at + flag, None, body + TAG_SIZE, LAYER_TEXT_SIZE, body, None, 0, nonce, self._forward_at):
            return Drop.BAD_TAG
        if in_order:  # as `window.mark` does, without the call
            window.last = counter
            window.seen[counter & WINDOW_MASK] = 1
        else:
            window.mark(counter)
        _put_filler(out, place + _REST, self._filler.of(counter))
        return out[flag]

    def pass_backward(self, received: bytearray | memoryview, source: int, body: int, counter: bytes | bytearray,
                      target: int, nonce: int) -> None:  # fmt: skip
        """Add this hop's layer to a cell on its way back (SPEC 6.2).

        Args:
            received: buffer with the received body at `body`; the 7 bytes before it are overwritten.
            source: address of `received`.
            counter: the 6 counter bytes it was received with.
            target: address where the new body goes, in another buffer.
            nonce: address of the nonce of the cell that is sent: the caller took `backward_counter` for it.
        """
        start = body - PASS_SIZE
        received[start] = PASSED
        received[start + 1 : body] = counter
        sodium.xor_at(target, source + start, BODY_SIZE, nonce, 0, self._backward.at)

    def write_backward(self, payload: bytes, out: bytearray, at: int, place: int, nonce: int) -> None:
        """Write a cell of this hop's own (SPEC 6.2).

        Args:
            payload: at most PAYLOAD_SIZE bytes; random bytes fill the rest of the area.
            nonce: address of the nonce of the cell that is sent: the caller took `backward_counter` for it.
        """
        area = place + FLAG_SIZE + TAG_SIZE
        end = place + BODY_SIZE
        out[area : area + len(payload)] = payload
        out[area + len(payload) : end] = self._rng.bytes(AREA_SIZE - len(payload) + _BACKWARD_TAIL)
        out[place] = WRITTEN
        sodium.seal_at(
            at + area, at + place + FLAG_SIZE, None, at + area, AREA_SIZE, None, 0, None, nonce, self._seal.at
        )
        sodium.xor_at(at + place, at + place, BODY_SIZE, nonce, 0, self._backward.at)

    def wipe(self) -> None:
        """Forget the keys; the layer is unusable afterwards."""
        for key in (self._forward, self._backward, self._seal, self._filler):
            key.wipe()


class _Hop:
    """The originator's side of one hop."""

    __slots__ = ("backward", "exporter", "filler", "forward", "offset", "seal", "window")

    def __init__(self, keys: HopKeys) -> None:
        self.forward = sodium.Key(keys.forward)
        self.backward = sodium.Key(keys.backward)
        self.seal = sodium.Key(keys.seal)
        self.exporter = sodium.Key(keys.exporter)
        self.filler = _Filler(keys.filler)
        self.offset = keys.counter_offset
        self.window = ReplayWindow()


class OriginLayers:
    """All layers of a circuit, at its originator."""

    __slots__ = ("_hops", "_rng", "_scratch", "_scratch_at")

    def __init__(self, rng: Rng) -> None:
        self._hops: list[_Hop] = []
        self._rng = rng
        self._scratch = bytearray(64 + MAX_HOPS * LAYER_SIZE)
        self._scratch_at = sodium.address_of(self._scratch)

    def __len__(self) -> int:
        return len(self._hops)

    def add(self, keys: HopKeys) -> None:
        if len(self._hops) == MAX_HOPS:
            raise LocalError(f"a circuit has at most {MAX_HOPS} hops")
        self._hops.append(_Hop(keys))

    def cut(self, hops: int) -> None:
        """Keep the first `hops` layers: the rest of the circuit is gone (SPEC 7.5)."""
        for hop in self._hops[hops:]:
            self._wipe(hop)
        del self._hops[hops:]

    def payload_place(self, hop: int) -> int:
        """Where in the body the payload for hop number `hop` (from 0) is put before `wrap`."""
        return (hop + 1) * LAYER_SIZE

    def wrap(self, buffer: bytearray, at: int, body: int, hop: int, used: int, command: Command, counter: int) -> None:
        """Make a body that hop number `hop` (from 0) reads (SPEC 6.1).

        Args:
            buffer: with `used` bytes of payload at `body + payload_place(hop)`, and WRAP_SLACK bytes behind the cell.
            at: address of `buffer`.
            counter: of the cell on the first link.
        """
        hops = self._hops
        if not 0 <= hop < len(hops) or not 0 <= used <= PAYLOAD_SIZE:
            raise LocalError(f"cannot wrap {used} bytes for hop {hop} of {len(hops)}")
        nonces, tail = [], b""
        for inner in hops[:hop]:
            nonce = nonce_for(command, counter)
            nonces.append(nonce)
            tail = (self._xor_tail(tail, nonce, inner) if tail else b"") + inner.filler.of(counter)
            counter += inner.offset
        nonce = nonce_for(command, counter)
        nonces.append(nonce)
        start = body + hop * LAYER_SIZE
        payload = start + LAYER_SIZE
        end = start + BODY_SIZE - len(tail)
        buffer[payload + used : end] = self._rng.bytes(end - payload - used)
        if tail:
            buffer[end : end + len(tail)] = self._xor_tail(tail, nonce, hops[hop])
        flag = FOR_YOU
        for number in range(hop, -1, -1):
            buffer[start + TAG_SIZE] = flag
            text = at + start + TAG_SIZE
            sodium.seal_at(
                text, at + start, None, text, LAYER_TEXT_SIZE, None, 0, None, nonces[number], hops[number].forward.at
            )
            start -= LAYER_SIZE
            flag = PASS_ON

    def _xor_tail(self, tail: bytes | bytearray, nonce: bytes, hop: _Hop) -> bytes:
        """`tail` xor the end of the keystream of `hop`'s layer: data starts at block 1 (RFC 8439 2.8)."""
        block, skip = divmod(LAYER_TEXT_SIZE - len(tail), 64)
        end = skip + len(tail)
        self._scratch[skip:end] = tail
        sodium.xor_at(self._scratch_at, self._scratch_at, end, nonce, 1 + block, hop.forward.at)
        return bytes(self._scratch[skip:end])

    def peel(self, buffer: bytearray | memoryview, at: int, body: int, counter: int) -> tuple[int, int] | Drop:
        """Open a backward cell in place (SPEC 6.2).

        Args:
            at: address of `buffer`.
            counter: of the cell as it came over the first link.

        Returns:
            The number of the hop that wrote it (from 0) and where its area starts, or why the cell is dropped: then no
            window changed.
        """
        size = BODY_SIZE
        for number, hop in enumerate(self._hops):
            nonce = nonce_for(Command.RELAY, counter)
            sodium.xor_at(at + body, at + body, size, nonce, 0, hop.backward.at)
            flag = buffer[body]
            if flag == WRITTEN:
                return self._open(at, body, number, counter, nonce)
            if flag != PASSED:
                return Drop.BAD_TAG
            counter = int.from_bytes(buffer[body + FLAG_SIZE : body + PASS_SIZE])
            body += PASS_SIZE
            size -= PASS_SIZE
        return Drop.BAD_TAG

    def _open(self, at: int, body: int, number: int, counter: int, nonce: bytes) -> tuple[int, int] | Drop:
        hop = self._hops[number]
        if not hop.window.fresh(counter):
            return Drop.REPLAYED if counter < COUNTER_LIMIT else Drop.BAD_COUNTER
        area = body + FLAG_SIZE + TAG_SIZE
        if sodium.open_at(at + area, None, at + area, AREA_SIZE, at + body + FLAG_SIZE, None, 0, nonce, hop.seal.at):
            return Drop.BAD_TAG
        hop.window.mark(counter)
        return number, area

    @staticmethod
    def _wipe(hop: _Hop) -> None:
        for key in (hop.forward, hop.backward, hop.seal, hop.exporter, hop.filler):
            key.wipe()

    def wipe(self) -> None:
        self.cut(0)
