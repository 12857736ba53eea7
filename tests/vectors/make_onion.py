"""Makes onion.json: cells on their way through six hops, every body at every hop (SPEC 6).

    python -m tests.vectors.make_onion

It uses tests/support/reference_onion.py and nothing of ours, so that a mistake in tunnels/ cannot get into the vectors.
What would be drawn is a hash of its name.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any, Final

from tests.support import reference_onion as ref

PATH: Final = Path(__file__).with_name("onion.json")

HOPS: Final = 6

KEYS: Final = ("forward", "backward", "seal", "filler")

ENDS_WITH_A_CHUNK: Final = 2**40 - 1
"""The highest counter a circuit may start with; the last of its 64 fillers."""

FORWARD: Final = tuple(
    (hop, command, counter, used)
    for hop, (command, counter, used) in enumerate(
        (
            (ref.EARLY, 0, 3),
            (ref.EARLY, 63, 1211),
            (ref.RELAY, 64, 1210),
            (ref.RELAY, 123456789, 0),
            (ref.RELAY, ENDS_WITH_A_CHUNK, 700),
            (ref.EARLY, 2**39, 1211),
        )
    )
)
"""Addressed hop, command, counter on the first link, bytes of payload."""


def drawn(name: str, size: int) -> bytes:
    return hashlib.shake_256(name.encode()).digest(size)


def secrets() -> list[ref.Secrets]:
    def of(hop: int, name: str) -> bytes:
        return hashlib.sha256(f"hop {hop}: {name}".encode()).digest()

    return [
        ref.Secrets(of(hop, "forward"), of(hop, "backward"), of(hop, "seal"), of(hop, "filler"),
                    int.from_bytes(of(hop, "offset")[:5]))
        for hop in range(HOPS)
    ]  # fmt: skip


def forward(hop: int, command: int, counter: int, used: int) -> dict[str, Any]:
    payload = drawn(f"forward {hop}: payload", used)
    padding = drawn(f"forward {hop}: padding", ref.padding_size(hop, used))
    made = ref.forward(secrets(), hop, payload, padding, command, counter)
    return {
        "hop": hop,
        "command": command,
        "counters": made.counters,
        "payload": payload.hex(),
        "padding": padding.hex(),
        "fillers": [filler.hex() for filler in made.fillers],
        "tails": [tail.hex() for tail in made.tails],
        "bodies": [body.hex() for body in made.bodies],
    }


def backward(writer: int) -> dict[str, Any]:
    """The body each hop sends, the writer's first; each hop's counter is its own."""
    hops = secrets()
    area, tail = drawn(f"backward {writer}: area", ref.AREA), drawn(f"backward {writer}: tail", 85)
    counters = [int.from_bytes(drawn(f"backward {writer}: counter {hop}", 5)) for hop in range(writer + 1)]
    bodies = [ref.write(hops[writer], area, tail, counters[writer])]
    for hop in reversed(range(writer)):
        bodies.append(ref.pass_on(hops[hop], bodies[-1], counters[hop + 1], counters[hop]))
    return {
        "writer": writer,
        "counters": counters,
        "area": area.hex(),
        "tail": tail.hex(),
        "bodies": [body.hex() for body in bodies],
    }


def text() -> str:
    """What belongs into the file."""
    keys = [{name: getattr(hop, name).hex() for name in KEYS} | {"offset": hop.offset} for hop in secrets()]
    made = {
        "about": "SPEC 6 by make_onion.py: forward bodies as hops receive them, backward bodies as hops send them",
        "hops": keys,
        "forward": [forward(*case) for case in FORWARD],
        "backward": [backward(writer) for writer in range(HOPS)],
    }
    return json.dumps(made, indent=1) + "\n"


if __name__ == "__main__":
    PATH.write_text(text())
    sys.stdout.write(f"{PATH.name}: {len(FORWARD)} forward, {HOPS} backward\n")
