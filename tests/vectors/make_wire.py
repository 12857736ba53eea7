"""Makes wire.json: the bytes of every header, link message, destination, message and payload (SPEC 2, 4.6, 8).

    python -m tests.vectors.make_wire

Every field is put down here by hand, in the order the specification draws it, with nothing of ours imported: a mistake
in tunnels/wire cannot get into the vectors.  What would be random or encrypted is SHAKE-256 of its name.
"""

import json
import sys
from hashlib import shake_256
from pathlib import Path
from typing import Final, TypedDict

PATH: Final = Path(__file__).with_name("wire.json")


class HeaderVector(TypedDict):
    """The nonce is hex[8:]."""

    circuit_id: int
    command: int
    counter: int
    hex: str


class MessageVector(TypedDict):
    """`number`: command or message type; byte strings among the fields are in hex, circuit id 0 is None."""

    name: str
    number: int
    fields: dict[str, int | str | None]
    hex: str


class DirectoryVector(TypedDict):
    """Byte strings among the fields are in hex, and several are a list of them."""

    name: str
    number: int
    fields: dict[str, int | str | list[int] | list[str]]
    hex: str


class DestinationVector(TypedDict):
    host: str
    port: int
    hex: str


class PayloadVector(TypedDict):
    """`heads`: what stands in each payload before the random rest."""

    name: str
    type: int
    message_id: int
    content: str
    heads: list[str]


class Vectors(TypedDict):
    headers: list[HeaderVector]
    link_messages: list[MessageVector]
    destinations: list[DestinationVector]
    messages: list[MessageVector]
    directory_messages: list[DirectoryVector]
    payloads: list[PayloadVector]


def filler(name: str, size: int) -> bytes:
    return shake_256(name.encode()).digest(size)


def joined(*parts: bytes | tuple[int, int]) -> str:
    """Hex of bytes and of (value, size) numbers, big-endian."""
    return b"".join(part if isinstance(part, bytes) else part[0].to_bytes(part[1], "big") for part in parts).hex()


def header(circuit_id: int, command: int, counter: int) -> HeaderVector:
    block = joined((circuit_id, 4), (command, 1), (counter, 6), (0, 5))
    return {"circuit_id": circuit_id, "command": command, "counter": counter, "hex": block}


def headers() -> list[HeaderVector]:
    sealed = [header(0, command, 0x010203040506) for command in (1, 2, 5, 6, 7, 8, 9, 10)]
    return [
        *sealed,
        header(0x0A0B0C0D, 3, 0),
        header(1, 3, 2**40 - 1),
        header(2**32 - 1, 4, 2**47 + 2**44 - 1),
    ]


def link_messages() -> list[MessageVector]:
    create, created = filler("create", 1306), filler("created", 1201)
    m1, m2, token = filler("m1", 1292), filler("m2", 1140), filler("path token", 16)
    return [
        {
            "name": "CREATE",
            "number": 1,
            "fields": {"circuit_id": 0x01020304, "handshake": create.hex()},
            "hex": joined((0x01020304, 4), create),
        },
        {
            "name": "CREATED",
            "number": 2,
            "fields": {"circuit_id": 0x01020304, "forward_id": 0xF1F2F3F4, "handshake": created.hex()},
            "hex": joined((0x01020304, 4), (0xF1F2F3F4, 4), created),
        },
        {
            "name": "DESTROY",
            "number": 5,
            "fields": {"circuit_id": 0x01020304, "sender_id": 0xF1F2F3F4},
            "hex": joined((0x01020304, 4), (0xF1F2F3F4, 4)),
        },
        {
            "name": "DESTROY",
            "number": 5,
            "fields": {"circuit_id": None, "sender_id": 7},
            "hex": joined((0, 4), (7, 4)),
        },
        {
            "name": "DESTROY",
            "number": 5,
            "fields": {"circuit_id": 7, "sender_id": None},
            "hex": joined((7, 4), (0, 4)),
        },
        {"name": "PADDING", "number": 6, "fields": {"answer": 0}, "hex": joined((0, 4), (0, 1))},
        {"name": "PADDING", "number": 6, "fields": {"answer": 1}, "hex": joined((0, 4), (1, 1))},
        {
            "name": "REKEY",
            "number": 7,
            "fields": {"index": 0x01000000, "m1": m1.hex()},
            "hex": joined((0, 4), (0x01000000, 4), m1),
        },
        {"name": "REKEYED", "number": 8, "fields": {"m2": m2.hex()}, "hex": joined((0, 4), m2)},
        {"name": "PATH_CHALLENGE", "number": 9, "fields": {"token": token.hex()}, "hex": joined((0, 4), token)},
        {"name": "PATH_RESPONSE", "number": 10, "fields": {"token": token.hex()}, "hex": joined((0, 4), token)},
    ]


def name(host: str, port: int) -> DestinationVector:
    return {"host": host, "port": port, "hex": joined((1, 1), (len(host), 1), host.encode("ascii"), (port, 2))}


def destinations() -> list[DestinationVector]:
    mapped = bytes(10) + b"\xff\xff" + bytes([192, 0, 2, 1])
    longest = ".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 61])
    return [
        {"host": "192.0.2.1", "port": 53, "hex": joined((4, 1), bytes([192, 0, 2, 1]), (53, 2))},
        {"host": "0.0.0.0", "port": 1, "hex": joined((4, 1), bytes(4), (1, 2))},
        {"host": "255.255.255.255", "port": 65535, "hex": joined((4, 1), b"\xff" * 4, (65535, 2))},
        {
            "host": "2001:db8::1",
            "port": 443,
            "hex": joined((6, 1), bytes.fromhex("20010db8"), bytes(11), (1, 1), (443, 2)),
        },
        {"host": "::", "port": 1, "hex": joined((6, 1), bytes(16), (1, 2))},
        {"host": "::ffff:192.0.2.1", "port": 80, "hex": joined((6, 1), mapped, (80, 2))},
        name("example.com", 80),
        name("a", 1),
        name("Mixed-Case_9.example.", 8080),
        name("xn--bcher-kva.example", 443),
        name(longest, 65535),
    ]


def messages() -> list[MessageVector]:
    relay_id, create, created = filler("relay id", 32), filler("create", 1306), filler("created", 1201)
    ping, data = filler("ping token", 8), filler("data", 48)
    ipv4, host = joined((4, 1), bytes([192, 0, 2, 1]), (53, 2)), joined((1, 1), (9, 1), b"localhost", (8080, 2))
    ipv6 = joined((6, 1), bytes.fromhex("20010db8"), bytes(11), (1, 1), (443, 2))
    return [
        {
            "name": "EXTEND",
            "number": 1,
            "fields": {"relay_id": relay_id.hex(), "handshake": create.hex()},
            "hex": joined(relay_id, create),
        },
        {"name": "EXTENDED", "number": 2, "fields": {"handshake": created.hex()}, "hex": joined(created)},
        {"name": "TRUNCATE", "number": 3, "fields": {}, "hex": ""},
        {"name": "TRUNCATED", "number": 4, "fields": {}, "hex": ""},
        {"name": "PING", "number": 5, "fields": {"token": ping.hex()}, "hex": joined(ping)},
        {"name": "PONG", "number": 6, "fields": {"token": ping.hex()}, "hex": joined(ping)},
        {
            "name": "DATAGRAM",
            "number": 7,
            "fields": {"host": "192.0.2.1", "port": 53, "data": data.hex()},
            "hex": ipv4 + data.hex(),
        },
        {
            "name": "DATAGRAM",
            "number": 7,
            "fields": {"host": "2001:db8::1", "port": 443, "data": ""},
            "hex": ipv6,
        },
        {
            "name": "DATAGRAM",
            "number": 7,
            "fields": {"host": "localhost", "port": 8080, "data": data.hex()},
            "hex": host + data.hex(),
        },
        *(
            MessageVector(
                name="REJECTED",
                number=8,
                fields={"reason": reason, "host": "192.0.2.1", "port": 53},
                hex=joined((reason, 1)) + ipv4,
            )
            for reason in (1, 2, 3, 4)
        ),
        {"name": "DROP", "number": 9, "fields": {}, "hex": ""},
    ]


def directory_messages() -> list[DirectoryVector]:
    digests = [bytes(8) if number % 3 else filler(f"digest {number}", 8) for number in range(256)]
    relay_id, last, none = filler("relay id", 32), filler("last relay id", 32), bytes(32)
    long, short = filler("long descriptor", 2048), filler("short descriptor", 1)
    # Bucket b is the bit of value 2^b: bucket 0 is the lowest bit of the last byte, 255 the highest of the first.
    bitmap = joined((0x80, 1), bytes(29), (0x02, 1), (0x81, 1))
    return [
        {"name": "DIGEST_REQUEST", "number": 10, "fields": {}, "hex": ""},
        {
            "name": "DIGESTS",
            "number": 11,
            "fields": {"digests": [digest.hex() for digest in digests]},
            "hex": joined(*digests),
        },
        {
            "name": "BUCKETS_REQUEST",
            "number": 12,
            "fields": {"wanted": [0, 7, 9, 255], "after": none.hex()},
            "hex": bitmap + joined(none),
        },
        {
            "name": "BUCKETS_REQUEST",
            "number": 12,
            "fields": {"wanted": list(range(256)), "after": relay_id.hex()},
            "hex": joined(b"\xff" * 32, relay_id),
        },
        {
            "name": "DESCRIPTORS",
            "number": 13,
            "fields": {"after": none.hex(), "following": none.hex(), "descriptors": []},
            "hex": joined(none, none),
        },
        {
            "name": "DESCRIPTORS",
            "number": 13,
            "fields": {"after": relay_id.hex(), "following": last.hex(), "descriptors": [long.hex(), short.hex()]},
            "hex": joined(relay_id, last, (2048, 2), long, (1, 2), short),
        },
        {"name": "PROBE", "number": 14, "fields": {"descriptor": long.hex()}, "hex": joined(long)},
        {
            "name": "VOUCHED",
            "number": 15,
            "fields": {"reach": 1, "relay_id": relay_id.hex()},
            "hex": joined((1, 1), relay_id),
        },
        {
            "name": "VOUCHED",
            "number": 15,
            "fields": {"reach": 0, "relay_id": relay_id.hex()},
            "hex": joined((0, 1), relay_id),
        },
        {
            "name": "VOUCHED",
            "number": 15,
            "fields": {"reach": 2, "relay_id": relay_id.hex()},
            "hex": joined((2, 1), relay_id),
        },
    ]


def whole(title: str, kind: int, content: bytes) -> PayloadVector:
    head = joined((kind, 1), (len(content), 2), content)
    return {"name": title, "type": kind, "message_id": 0, "content": content.hex(), "heads": [head]}


def cut(title: str, kind: int, message_id: int, parts: list[bytes]) -> PayloadVector:
    heads = [
        joined((kind + 0x80, 1), (4 + len(part), 2), (message_id, 2), (index, 1), (len(parts), 1), part)
        for index, part in enumerate(parts)
    ]
    content = b"".join(parts)
    return {"name": title, "type": kind, "message_id": message_id, "content": content.hex(), "heads": heads}


def payloads() -> list[PayloadVector]:
    extend = filler("relay id", 32) + filler("create", 1306)
    large, page = filler("large", 1204 * 3 + 484), filler("page", 16384)
    return [
        whole("nothing to say", 9, b""),
        whole("a ping", 5, filler("ping token", 8)),
        whole("the largest that is whole", 7, filler("large", 1208)),
        cut("the smallest that is not", 7, 0xABCD, [large[:1204], large[1204:1209]]),
        cut("an EXTEND", 1, 0, [extend[:1204], extend[1204:]]),
        cut("two full fragments", 7, 1, [large[:1204], large[1204:2408]]),
        cut("the largest page", 13, 2, [page[at : at + 1204] for at in range(0, 16384, 1204)]),
        cut("the largest control message", 127, 0xFFFF, [large[at : at + 1204] for at in range(0, 4096, 1204)]),
    ]


def text() -> str:
    """What belongs into the file."""
    vectors: Vectors = {
        "headers": headers(),
        "link_messages": link_messages(),
        "destinations": destinations(),
        "messages": messages(),
        "directory_messages": directory_messages(),
        "payloads": payloads(),
    }
    return json.dumps(vectors, indent=1) + "\n"


def load() -> Vectors:
    """What is in the file."""
    vectors: Vectors = json.loads(PATH.read_text())
    return vectors


if __name__ == "__main__":
    PATH.write_text(text())
    sys.stdout.write(f"{PATH.name}: {sum(map(len, json.loads(text()).values()))} vectors\n")
