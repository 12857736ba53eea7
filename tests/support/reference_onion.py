"""The layers of SPEC 6 a second time, with `cryptography` and nothing of ours: what the tests compare with.

Written from docs/protocol.md and not from the code: bytes in, new bytes out, every quantity under the name it has
there.  Slow, and it trusts its caller.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

BODY: Final = 1330
PAYLOAD: Final = 1211
AREA: Final = 1228
LAYER: Final = 17
RELAY: Final = 3
EARLY: Final = 4


@dataclass(frozen=True, slots=True)
class Secrets:
    """What a hop and the originator share (SPEC 5.3)."""

    forward: bytes
    backward: bytes
    seal: bytes
    filler: bytes
    offset: int


class Forward(NamedTuple):
    """A forward cell: what every hop up to the addressed one receives, and how it came about."""

    bodies: list[bytes]
    counters: list[int]
    tails: list[bytes]
    """T_1 to T_h."""
    fillers: list[bytes]


class Peeled(NamedTuple):
    hop: int
    counter: int
    area: bytes


def nonce_of(command: int, counter: int) -> bytes:
    """SPEC 2.1."""
    return bytes([command]) + counter.to_bytes(6, "big") + bytes(5)


def keystream(key: bytes, nonce: bytes, size: int, first_block: int = 0) -> bytes:
    """RFC 8439 2.4: `cryptography` takes block counter and nonce as one, the counter little-endian."""
    start = first_block.to_bytes(4, "little") + nonce
    return Cipher(algorithms.ChaCha20(key, start), mode=None).encryptor().update(bytes(size))


def xor(a: bytes, b: bytes) -> bytes:
    return bytes(x ^ y for x, y in zip(a, b, strict=True))


def sealed(key: bytes, nonce: bytes, text: bytes) -> bytes:
    """`tag | ciphertext`, in the order of SPEC 6."""
    out = ChaCha20Poly1305(key).encrypt(nonce, text, None)
    return out[-16:] + out[:-16]


def opened(key: bytes, nonce: bytes, body: bytes) -> bytes | None:
    try:
        return ChaCha20Poly1305(key).decrypt(nonce, body[16:] + body[:16], None)
    except InvalidTag:
        return None


def filler_of(hop: Secrets, counter: int) -> bytes:
    chunk = keystream(hop.filler, bytes(4) + (counter // 64).to_bytes(8, "big"), 64 * LAYER)
    return chunk[LAYER * (counter % 64) : LAYER * (counter % 64) + LAYER]


def padding_size(hop: int, used: int) -> int:
    """Random bytes between the payload for hop number `hop` (from 0) and T."""
    return BODY - LAYER - hop * LAYER - used


def forward(hops: Sequence[Secrets], hop: int, payload: bytes, padding: bytes, command: int, counter: int) -> Forward:
    """SPEC 6.1, for hop number `hop` (from 0)."""
    counters = [counter]
    for each in hops[:hop]:
        counters.append(counters[-1] + each.offset)
    tails, fillers = [b""], []
    for number in range(hop):
        ks = keystream(hops[number].forward, nonce_of(command, counters[number]), BODY - 16, first_block=1)
        fillers.append(filler_of(hops[number], counters[number]))
        tails.append(xor(tails[number], ks[len(ks) - len(tails[number]) :]) + fillers[number])
    ks = keystream(hops[hop].forward, nonce_of(command, counters[hop]), BODY - 16, first_block=1)
    text = bytes([1]) + payload + padding + xor(tails[hop], ks[len(ks) - len(tails[hop]) :])
    bodies = [sealed(hops[hop].forward, nonce_of(command, counters[hop]), text)]
    for number in reversed(range(hop)):
        text = bytes([0]) + bodies[0][: BODY - LAYER]
        bodies.insert(0, sealed(hops[number].forward, nonce_of(command, counters[number]), text))
    return Forward(bodies, counters, tails, fillers)


def receive(hop: Secrets, body: bytes, command: int, counter: int) -> tuple[int, bytes, int] | None:
    """What a hop makes of a forward body: flag, what goes on or the rest, the counter it goes on with."""
    text = opened(hop.forward, nonce_of(command, counter), body)
    if text is None:
        return None
    if text[0] == 0:
        return 0, text[1:] + filler_of(hop, counter), counter + hop.offset
    return text[0], text[1:], counter


def write(hop: Secrets, area: bytes, tail: bytes, counter: int) -> bytes:
    """SPEC 6.2, the first point."""
    nonce = nonce_of(RELAY, counter)
    body = bytes([1]) + sealed(hop.seal, nonce, area) + tail
    return xor(body, keystream(hop.backward, nonce, BODY))


def pass_on(hop: Secrets, body: bytes, received: int, counter: int) -> bytes:
    """SPEC 6.2, the second point."""
    plain = bytes([0]) + received.to_bytes(6, "big") + body[: BODY - 7]
    return xor(plain, keystream(hop.backward, nonce_of(RELAY, counter), BODY))


def peel(hops: Sequence[Secrets], body: bytes, counter: int) -> Peeled | None:
    """What the originator reads, without windows."""
    for number, hop in enumerate(hops):
        nonce = nonce_of(RELAY, counter)
        body = xor(body, keystream(hop.backward, nonce, len(body)))
        if body[0] == 1:
            area = opened(hop.seal, nonce, body[1 : 1 + 16 + AREA])
            return None if area is None else Peeled(number, counter, area)
        if body[0] != 0:
            return None
        counter, body = int.from_bytes(body[1:7], "big"), body[7:]
    return None
