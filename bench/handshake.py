"""One hop's handshake against the public-key operations and hashes it cannot do without (SPEC 5).

Both sides of the handshake run on this one core; so do the primitives, straight from `cryptography` and `hashlib`.
"""

import hashlib
import hmac
import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import click
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from bench import Figure, Work, interleaved, machine
from tunnels.crypto.handshake import PROTOID, OriginatorHandshake, answer_create, keyid_of
from tunnels.crypto.kem import MlKem768
from tunnels.crypto.rng import SystemRng
from tunnels.crypto.x25519 import KeyPair
from tunnels.ids import RelayId
from tunnels.params import EXTRA_SIZE, HOP_KEYS_SIZE, KEM_CIPHERTEXT_SIZE, KEM_PUBLIC_SIZE, KEY_SIZE, X25519_SIZE

TARGET: Final = 4.0
"""What the handshake may cost, in sums of its primitives."""

NETWORK: Final = b"tropea"


@dataclass(frozen=True, slots=True)
class Primitive:
    """One operation and how often a handshake needs it, both sides together."""

    times: int
    work: Work


@dataclass(frozen=True, slots=True)
class Result:
    ours: Mapping[str, Figure]
    primitives: Mapping[str, Figure]
    """Each already multiplied by how often it is needed."""
    ratio: Figure
    """Of the two sums of one round: what both suffered from cancels out."""

    @property
    def good(self) -> bool:
        return self.ratio.median <= TARGET

    def as_json(self) -> dict[str, object]:
        return {
            "machine": machine(),
            "ours": {name: figure.as_json() for name, figure in self.ours.items()},
            "primitives": {name: figure.as_json() for name, figure in self.primitives.items()},
            "ratio": round(self.ratio.median, 3),
            "ratio_low": round(self.ratio.low, 3),
            "ratio_high": round(self.ratio.high, 3),
            "target": TARGET,
        }


class _Hop:
    """An originator and a relay; each step uses what the one before left."""

    def __init__(self) -> None:
        self._rng = SystemRng()
        self._kem = MlKem768()
        self._relay_id = RelayId(self._rng.bytes(KEY_SIZE))
        self._onion_key = KeyPair.generate(self._rng)
        self._keys = {keyid_of(self._onion_key.public): self._onion_key}

    def create(self) -> None:
        self._originator = OriginatorHandshake(self._relay_id, self._onion_key.public, NETWORK, self._rng, self._kem)

    def answer(self) -> None:
        self._created, _, _ = answer_create(
            self._originator.create,
            relay_id=self._relay_id,
            keys=self._keys,
            network_id=NETWORK,
            rng=self._rng,
            kem=self._kem,
        )

    def finish(self) -> None:
        self._originator.finish(self._created)

    def steps(self) -> dict[str, Work]:
        return {"originator: CREATE": self.create, "relay: CREATED": self.answer, "originator: finish": self.finish}


def _primitives() -> dict[str, Primitive]:
    scalar = secrets.token_bytes(X25519_SIZE)
    private = X25519PrivateKey.from_private_bytes(scalar)
    public = X25519PrivateKey.generate().public_key().public_bytes_raw()
    dk = MLKEM768PrivateKey.generate()
    ek = dk.public_key().public_bytes_raw()
    _, ct = MLKEM768PublicKey.from_public_bytes(ek).encapsulate()
    context = bytes(len(PROTOID) + 1 + len(NETWORK))
    asked = bytes(len(context) + 2 * KEY_SIZE + X25519_SIZE + KEM_PUBLIC_SIZE)
    answered = bytes(EXTRA_SIZE + KEY_SIZE + X25519_SIZE + KEM_CIPHERTEXT_SIZE)
    key = bytes(KEY_SIZE)

    def hashes() -> None:
        """Of one side, as few as SPEC 5.2 allows: the transcript is hashed on, not again."""
        transcript = hashlib.sha256(asked)
        salt = transcript.digest()
        transcript.update(answered)
        final = transcript.digest()
        request = hmac.digest(salt, key, "sha256")
        for _ in range(2 * KEY_SIZE // 32):
            hmac.digest(request, key + context, "sha256")
        hmac.digest(key, asked, "sha256")
        answer = hmac.digest(final, key + key + key, "sha256")
        for _ in range(-(-(2 * KEY_SIZE + HOP_KEYS_SIZE) // 32)):
            hmac.digest(answer, key + context, "sha256")
        hmac.digest(key, context + final, "sha256")

    return {
        "X25519 key pair": Primitive(
            2, lambda: X25519PrivateKey.from_private_bytes(scalar).public_key().public_bytes_raw()
        ),
        "X25519 exchange": Primitive(4, lambda: private.exchange(X25519PublicKey.from_public_bytes(public))),
        "ML-KEM-768 key pair": Primitive(1, lambda: MLKEM768PrivateKey.generate().public_key().public_bytes_raw()),
        "ML-KEM-768 encapsulate": Primitive(1, lambda: MLKEM768PublicKey.from_public_bytes(ek).encapsulate()),
        "ML-KEM-768 decapsulate": Primitive(1, lambda: dk.decapsulate(ct)),
        "SHA-256 and HMAC": Primitive(2, hashes),
    }


def measure(runs: int) -> Result:
    """Both sides of `runs` handshakes, and their primitives in between."""
    ours, primitives = _Hop().steps(), _primitives()
    samples = interleaved({**ours, **{name: primitive.work for name, primitive in primitives.items()}}, runs)
    for name, primitive in primitives.items():
        samples[name] = [primitive.times * taken for taken in samples[name]]
    totals = [
        [sum(one_round) for one_round in zip(*(samples[name] for name in part), strict=True)]
        for part in (ours, primitives)
    ]
    return Result(
        {name: Figure.of(samples[name]) for name in ours} | {"sum": Figure.of(totals[0])},
        {f"{p.times} x {name}": Figure.of(samples[name]) for name, p in primitives.items()}
        | {"sum": Figure.of(totals[1])},
        Figure.of([mine / bound for mine, bound in zip(*totals, strict=True)]),
    )


def table(result: Result) -> str:
    """For people."""
    where = machine()
    lines = [
        f"One hop's handshake, both sides on one core.  {where['cpu']}, Python {where['python']}",
        "",
        f"{'':32}{'median':>10}  spread",
    ]
    for title, part in (("ours", result.ours), ("primitives", result.primitives)):
        lines.append(title)
        lines += [f"  {name:30}{f.median:>7.1f} us  +-{100 * f.spread:.0f} %" for name, f in part.items()]
    r = result.ratio
    verdict = "met" if result.good else "MISSED"
    lines += ["", f"ratio {r.median:.2f} (middle half {r.low:.2f} to {r.high:.2f}); target <= {TARGET:g}: {verdict}"]
    return "\n".join(lines)


@click.command("handshake")
@click.option("--runs", default=500, show_default=True, type=click.IntRange(min=2), help="Handshakes to time.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def command(runs: int, as_json: bool) -> None:  # noqa: FBT001 (click passes options so)
    """A circuit handshake against the sum of its primitives.

    The ratio is what our Python adds to X25519, ML-KEM-768 and the hashes; 1 would be nothing.
    """
    result = measure(runs)
    click.echo(json.dumps(result.as_json(), indent=2) if as_json else table(result))
    if not result.good:
        raise SystemExit(1)
