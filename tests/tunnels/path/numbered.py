"""Relays to choose from, numbered."""

from collections.abc import Iterable

from tunnels.exit.policy import ExitPolicy
from tunnels.ids import Address, RelayId
from tunnels.path.directory import RelayInfo, relay_id_of

ACCEPT = ExitPolicy.parse("accept *:*")


def relay_id(number: int) -> RelayId:
    return relay_id_of(number.to_bytes(4))


def relay_info(
    number: int, addresses: Iterable[Address] | None = None, policy: ExitPolicy = ExitPolicy.REJECT_ALL
) -> RelayInfo:
    """Relay `number`, in a public /16 of its own (of 20 000) unless it is told where."""
    if addresses is None:
        addresses = [(f"{20 + number // 250 % 80}.{number % 250}.0.1", 8090)]
    key = number.to_bytes(32)
    return RelayInfo(relay_id(number), key, key, tuple(addresses), policy)
