"""Asking for IPv8 introductions: whom, and how often (SPEC 12.2).  Floor 5: IPv8 sends, nothing here is kept on disk.

A node that knows too few relays asks its bootstrap addresses and whoever they introduced.  A client that knows its
directory sources stops: what it never asks, nobody can note down.  Nobody is contacted who was not configured or
introduced.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tunnels.endpoint.adapt import ipv8_address
from tunnels.params import WALK_INTERVAL_FED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ipv8.community import Community

    from tunnels.discovery import Discovery
    from tunnels.ids import Address, Rng


class Walker:
    """
    Args:
        community: whose introductions; its own `bootstrappers`, if the application configured any, are asked too.
    """

    def __init__(self, community: Community, discovery: Discovery, bootstrap: Sequence[Address], rng: Rng) -> None:
        self._community: Final = community
        self._discovery: Final = discovery
        self._bootstrap: Final = [ipv8_address(address) for address in bootstrap]
        self._rng: Final = rng
        self._next = 0.0

    def step(self, now: float) -> None:
        """Ask, when it is time and there is a socket to ask from: IPv8 makes its overlays before it opens their
        endpoint.
        """
        if not self._community.endpoint.is_open():
            return
        hungry = self._discovery.hungry(now)
        if not hungry and (not self._discovery.is_relay or now < self._next):
            return
        self._next = now + WALK_INTERVAL_FED
        community = self._community
        known = {peer.address for peer in community.get_peers()}
        for address in self._bootstrap:
            if address not in known:
                community.walk_to(address)
        if not known:
            community.bootstrap()
        introduced = community.get_walkable_addresses()
        if introduced:
            community.walk_to(introduced[self._rng.below(len(introduced))])
        elif peers := community.get_peers():
            community.send_introduction_request(peers[self._rng.below(len(peers))])
