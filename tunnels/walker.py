"""Asking for IPv8 introductions: whom, how often, and whom to remember (SPEC 12.2).  Floor 5: IPv8 sends, nothing here
is kept on disk.

A node that knows too few relays asks its bootstrap addresses and whoever they introduced.  A client that knows its
directory sources stops: what it never asks, nobody can note down.  Nobody is contacted who was not configured or
introduced.

IPv8 remembers everybody who ever spoke to it, or stops answering at a number of peers: with either, strangers decide
how much a node keeps or whom it hears.  So only relays are remembered, MAX_PEERS of them, fairly by network, and
forgotten when they do not answer.  A client's address is handed to nobody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tunnels.endpoint.adapt import ipv8_address
from tunnels.fair import FairTable, source_prefix
from tunnels.params import ASK_TIMEOUT, MAX_INTRODUCED_ADDRESSES, MAX_PEERS, WALK_INTERVAL_FED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ipv8.community import Community
    from ipv8.peer import Peer

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
        self._asked: dict[Address, float] = {}
        """When those were asked that have not answered yet."""
        self._remembered: FairTable[Peer] = FairTable(MAX_PEERS)

    def step(self, now: float) -> None:
        """Ask, when it is time and there is a socket to ask from: IPv8 makes its overlays before it opens their
        endpoint.
        """
        if not self._community.endpoint.is_open():
            return
        self._forget_the_silent(now)
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
        introduced = [address for address in community.get_walkable_addresses() if address not in self._asked]
        if introduced:
            community.walk_to(introduced[self._rng.below(len(introduced))])
        elif peers := community.get_peers():
            community.send_introduction_request(peers[self._rng.below(len(peers))])

    def asked(self, address: Address, now: float) -> None:
        """Somebody was asked for an introduction, by us or by whoever else walks this community."""
        self._asked.setdefault((address[0], address[1]), now)

    def answered(self, address: Address) -> bool:
        """An answer came: whether its sender was asked.  Nobody else introduces anybody to us."""
        return self._asked.pop((address[0], address[1]), None) is not None

    def met(self, peer: Peer, *, relay: bool) -> None:
        """IPv8 has noted a peer: keep it, if it is a relay for which there is room."""
        if peer in self._remembered:
            return
        prefix = source_prefix(peer.address[0])
        if not relay or self._remembered.full_for(prefix):
            self._forget(peer)
        elif (leaves := self._remembered.add(prefix, peer)) is not None:
            self._forget(leaves)

    def _forget_the_silent(self, now: float) -> None:
        silent = {address for address, asked in self._asked.items() if now - asked >= ASK_TIMEOUT}
        if silent:
            self._asked = {address: asked for address, asked in self._asked.items() if address not in silent}
            for peer in self._community.get_peers():
                if silent & set(peer.addresses.values()):
                    self._forget(peer)
        introduced = self._community.get_walkable_addresses()
        crowd = introduced[MAX_INTRODUCED_ADDRESSES:]
        for address in {*crowd, *(address for address in introduced if address in silent)}:
            self._community.network.remove_by_address(address)

    def _forget(self, peer: Peer) -> None:
        """As a peer of this community; other overlays of the application may go on with it."""
        self._remembered.discard(peer)
        network, name = self._community.network, peer.public_key.key_to_bin()
        others = network.services_per_peer.get(name, set()) - {self._community.community_id}
        if others:
            network.services_per_peer[name] = others
        else:
            network.remove_peer(peer)
