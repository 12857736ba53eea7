"""Relays and random networks of them, for the tests of path choice."""

from typing import Final

from hypothesis import strategies as st

from tunnels.exit.policy import ExitPolicy
from tunnels.path.directory import RelayInfo, relay_id_of

ACCEPT_ALL: Final = ExitPolicy.parse("accept *:*")

HOSTS: Final = st.one_of(
    st.builds("9.{}.{}.1".format, st.integers(0, 5), st.integers(0, 2)),
    st.builds("10.{}.0.1".format, st.integers(0, 3)),
    st.builds("2620:{}::{}".format, st.integers(1, 4), st.integers(1, 2)),
)
"""Public and private, IPv4 and IPv6, in so few networks that relays meet in them."""


def relay(number: int, *hosts: str, exits: bool = False) -> RelayInfo:
    """Relay `number`, in a public network of its own unless it is told where."""
    key = bytes([1]) + number.to_bytes(31)
    addresses = tuple((host, 8000) for host in hosts or (f"9.{number}.0.1",))
    return RelayInfo(
        relay_id_of(key), key, bytes([2]) + key[1:], addresses, ACCEPT_ALL if exits else ExitPolicy.REJECT_ALL
    )


@st.composite
def networks(draw: st.DrawFn, max_size: int = 12) -> list[RelayInfo]:
    """Relays at one or two addresses each, some of them exits."""
    places = draw(st.lists(st.tuples(st.lists(HOSTS, min_size=1, max_size=2, unique=True), st.booleans()),
                           max_size=max_size))  # fmt: skip
    return [relay(number, *hosts, exits=exits) for number, (hosts, exits) in enumerate(places)]
