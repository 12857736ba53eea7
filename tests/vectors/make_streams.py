"""Makes streams.json: the bytes of every frame of a packet, and of packets (SPEC 13.1, 13.3).

    python -m tests.vectors.make_streams

Put down by hand in the order the specification draws it, with nothing of ours imported, as make_wire.py does.
"""

import json
import sys
from pathlib import Path
from typing import Final, TypedDict

from tests.vectors.make_wire import filler, joined

PATH: Final = Path(__file__).with_name("streams.json")

Fields = dict[str, int | float | str | bool | list[list[int]] | list[str] | None]


class FrameVector(TypedDict):
    """`number`: frame type; byte strings among the fields are in hex; a destination is `host` and `port`, host None for
    the far end itself (OPEN) or nothing (STATUS).
    """

    name: str
    number: int
    fields: Fields
    hex: str


class PacketVector(TypedDict):
    """`frames`: indices into the frame vectors."""

    number: int
    frames: list[int]
    hex: str


class Vectors(TypedDict):
    frames: list[FrameVector]
    packets: list[PacketVector]


def frame(name: str, number: int, fields: Fields, *parts: bytes | tuple[int, int]) -> FrameVector:
    return {"name": name, "number": number, "fields": fields, "hex": joined((number, 1), *parts)}


def frames() -> list[FrameVector]:
    data, full = filler("stream data", 48), filler("full stream", 1189)
    ipv4, ipv6 = bytes([192, 0, 2, 1]), bytes.fromhex("20010db8") + bytes(11) + b"\x01"
    many = [[index * 4 + 1, index * 4 + 2] for index in reversed(range(32))]
    return [
        frame("PING", 1, {}),
        frame("ACK", 2, {"delay": 0.0, "ranges": [[0, 0]]}, (0, 2), (1, 1), (0, 4), (0, 4)),
        frame(
            "ACK",
            2,
            {"delay": 0.0123, "ranges": [[7, 2**32 - 1], [4, 5], [0, 2]]},
            (123, 2),
            (3, 1),
            (7, 4),
            (2**32 - 1, 4),
            (4, 4),
            (5, 4),
            (0, 4),
            (2, 4),
        ),
        frame(
            "ACK",
            2,
            {"delay": 6.5535, "ranges": [[int(first), int(last)] for first, last in many]},
            (65535, 2),
            (32, 1),
            *((bound, 4) for each in many for bound in each),
        ),
        frame(
            "OPEN",
            3,
            {"stream_id": 0, "flags": 0, "host": "192.0.2.1", "port": 443},
            (0, 4),
            (0, 1),
            (4, 1),
            ipv4,
            (443, 2),
        ),
        frame(
            "OPEN",
            3,
            {"stream_id": 2**32 - 1, "flags": 6, "host": "example.com", "port": 80},
            (2**32 - 1, 4),
            (6, 1),
            (1, 1),
            (11, 1),
            b"example.com",
            (80, 2),
        ),
        frame("OPEN", 3, {"stream_id": 2, "flags": 0, "host": None, "port": 80}, (2, 4), (0, 1), (0, 1), (80, 2)),
        frame("STATUS", 4, {"stream_id": 4, "status": 3, "host": None, "port": None}, (4, 4), (3, 1), (0, 1)),
        frame(
            "STATUS",
            4,
            {"stream_id": 6, "status": 0, "host": "2001:db8::1", "port": 443},
            (6, 4),
            (0, 1),
            (6, 1),
            ipv6,
            (443, 2),
        ),
        frame(
            "STREAM",
            5,
            {"stream_id": 0, "offset": 0, "data": data.hex(), "fin": False},
            (0, 4),
            (0, 8),
            (48, 2),
            data,
        ),
        frame(
            "STREAM",
            5,
            {"stream_id": 9, "offset": 2**62 - 1190, "data": full.hex(), "fin": False},
            (9, 4),
            (2**62 - 1190, 8),
            (1189, 2),
            full,
        ),
        frame(
            "STREAM_FIN",
            6,
            {"stream_id": 1, "offset": 0x0102030405, "data": "", "fin": True},
            (1, 4),
            (0x0102030405, 8),
            (0, 2),
        ),
        frame("RESET", 7, {"stream_id": 3, "status": 12, "final_size": 2**40}, (3, 4), (12, 1), (2**40, 8)),
        frame("STOP", 8, {"stream_id": 3, "status": 6}, (3, 4), (6, 1)),
        frame("MAX_DATA", 9, {"limit": 2**62 - 1}, (2**62 - 1, 8)),
        frame("MAX_STREAM_DATA", 10, {"stream_id": 5, "limit": 262144}, (5, 4), (262144, 8)),
        frame("MAX_STREAMS", 11, {"number": 1152}, (1152, 4)),
        frame("RESOLVE", 12, {"query": 0, "host": "example.com"}, (0, 4), (1, 1), (11, 1), b"example.com"),
        frame("RESOLVE", 12, {"query": 7, "host": "192.0.2.1"}, (7, 4), (4, 1), ipv4),
        frame(
            "RESOLVED",
            13,
            {"query": 0, "status": 0, "ttl": 300, "hosts": ["192.0.2.1", "2001:db8::1"]},
            (0, 4),
            (0, 1),
            (300, 4),
            (2, 1),
            (4, 1),
            ipv4,
            (6, 1),
            ipv6,
        ),
        frame(
            "RESOLVED",
            13,
            {"query": 7, "status": 0, "ttl": 60, "hosts": ["a.example"]},
            (7, 4),
            (0, 1),
            (60, 4),
            (1, 1),
            (1, 1),
            (9, 1),
            b"a.example",
        ),
        frame("RESOLVED", 13, {"query": 1, "status": 2, "ttl": 0, "hosts": []}, (1, 4), (2, 1), (0, 4), (0, 1)),
    ]


def packets() -> list[PacketVector]:
    known = [bytes.fromhex(each["hex"]) for each in frames()]
    chosen = [(0, [0]), (2**32 - 1, [9]), (77, [1, 5, 9, 14]), (78, [10])]
    return [
        {"number": number, "frames": indices, "hex": joined((number, 4), *(known[index] for index in indices))}
        for number, indices in chosen
    ]


def text() -> str:
    """What belongs into the file."""
    vectors: Vectors = {"frames": frames(), "packets": packets()}
    return json.dumps(vectors, indent=1) + "\n"


def load() -> Vectors:
    """What is in the file."""
    vectors: Vectors = json.loads(PATH.read_text())
    return vectors


if __name__ == "__main__":
    PATH.write_text(text())
    sys.stdout.write(f"{PATH.name}: {sum(map(len, json.loads(text()).values()))} vectors\n")
