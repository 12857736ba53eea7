"""Two IPv8 applications ask each other, through three relays, and neither learns where the other is asked from.

    python -m examples.embed_in_p2p_app

Each has an overlay of its own, a library, and ours beside it.  Five relays are started with them, on loopback
addresses; all that anybody is told of the network is the address of one of them.
"""

import asyncio
import hashlib
from typing import Any, Final, cast

from ipv8.community import Community, CommunitySettings
from ipv8.configuration import ConfigBuilder
from ipv8.lazy_community import lazy_wrapper_unsigned
from ipv8.messaging.interfaces.udp.endpoint import Address
from ipv8.messaging.lazy_payload import VariablePayload, vp_compile
from ipv8.overlay import Overlay
from ipv8_service import IPv8

from tunnels.endpoint.batched import BatchedEndpoint
from tunnels.loading import add_tunnels, tropea_communities, tunnels_of

ON_THIS_MACHINE: Final[dict[str, Any]] = {"private_addresses": True, "min_relay_age": 0.0}
"""Relays at loopback addresses, seconds old: nothing to trust elsewhere."""

PATIENCE: Final = 60.0
"""Seconds for everything, also on a machine that is very busy."""


# --- The application's own overlay, as any: it knows nothing of tunnels ----------------------------


@vp_compile
class Title(VariablePayload):
    msg_id = 1
    names = ["title"]  # noqa: RUF012 (as IPv8 wants it)
    format_list = ["varlenHutf8"]  # noqa: RUF012

    title: str


@vp_compile
class Place(VariablePayload):
    msg_id = 2
    names = ["place"]  # noqa: RUF012
    format_list = ["varlenHutf8"]  # noqa: RUF012

    place: str


class Library(Community):
    """Whoever asks for a title is told where it stands."""

    community_id = hashlib.sha1(b"the library of an example", usedforsecurity=False).digest()

    def __init__(self, settings: CommunitySettings) -> None:
        super().__init__(settings)
        self.places: dict[str, str] = {}
        self.asked_from: list[str] = []
        self.add_message_handler(Title, self.on_title)

    def question(self, title: str) -> bytes:
        return self.ezr_pack(Title.msg_id, Title(title), sig=False)

    @lazy_wrapper_unsigned(Title)
    def on_title(self, source: Address, payload: Title) -> None:
        self.asked_from.append(source[0])
        answer = Place(self.places.get(payload.title, "not here"))
        self.endpoint.send(source, self.ezr_pack(Place.msg_id, answer, sig=False))

    def answer(self, message: bytes) -> str:
        return cast("Place", self._ez_unpack_noauth(Place, message, global_time=False)).place


# --- What it takes to have tunnels beside it --------------------------------------------------------


async def embedded(builder: ConfigBuilder, overlays: dict[str, type[Overlay[Any]]], **settings: Any) -> IPv8:
    add_tunnels(builder, hops=3, **settings)  # bootstrap=[("192.0.2.1", 8090)]: the address of any relay
    ipv8 = IPv8(builder.finalize(), extra_communities={**overlays, **tropea_communities()})
    await ipv8.start()
    return ipv8


async def ask(ipv8: IPv8, server: tuple[str, int], question: bytes) -> bytes:
    tunnels, answers = tunnels_of(ipv8), asyncio.Queue[bytes]()
    tunnels.on_data(lambda circuit, origin, payload: answers.put_nowait(payload))
    circuit = await tunnels.wait_for_circuit(3)
    tunnels.tunnel_data(circuit, server, "data", question)
    return await answers.get()


# --- A network on this machine, and both applications in it -------------------------------------------


async def relay(number: int, bootstrap: list[tuple[str, int]]) -> IPv8:
    """A relay that lets everything out, for this machine only: also to private addresses."""
    endpoint = BatchedEndpoint((f"127.{number}.0.1", 0))
    await endpoint.open()
    builder = ConfigBuilder().clear_keys().clear_overlays().set_log_level("ERROR").add_ephemeral_key("relay")
    add_tunnels(
        builder, key_alias="relay", bootstrap=bootstrap, relay_addresses=endpoint.addresses, become_exitnode=True,
        exit_policy="accept *:*", exit_private=True, **ON_THIS_MACHINE,
    )  # fmt: skip
    ipv8 = IPv8(builder.finalize(), endpoint_override=endpoint, extra_communities=tropea_communities())
    await ipv8.start()
    return ipv8


async def application(number: int, bootstrap: list[tuple[str, int]], places: dict[str, str]) -> IPv8:
    builder = ConfigBuilder().clear_keys().clear_overlays().set_log_level("ERROR").add_ephemeral_key("app")
    builder.set_address(f"127.{number}.0.1").set_port(0).add_overlay("Library", "app", [], [], {}, [])
    ipv8 = await embedded(builder, {"Library": Library}, bootstrap=bootstrap, **ON_THIS_MACHINE)
    library_of(ipv8).places = places
    return ipv8


def library_of(ipv8: IPv8) -> Library:
    library = ipv8.get_overlay(Library)
    assert library is not None
    return library


def address_of(ipv8: IPv8) -> tuple[str, int]:
    host, port = ipv8.endpoint.get_address()
    return host, port


async def main() -> None:
    running = [await relay(1, [])]
    bootstrap = [address_of(running[0])]
    try:
        for number in range(2, 6):
            running.append(await relay(number, bootstrap))  # noqa: PERF401 (what has started has to be stopped)
        alice = await application(11, bootstrap, {"Onions": "third shelf"})
        running.append(alice)
        bob = await application(12, bootstrap, {"Leeks": "behind the stove"})
        running.append(bob)
        async with asyncio.timeout(PATIENCE):
            for who, other, title in ((alice, bob, "Leeks"), (bob, alice, "Onions")):
                answer = await ask(who, address_of(other), library_of(who).question(title))
                asked_from = ", ".join(library_of(other).asked_from)
                print(f"{title}: {library_of(who).answer(answer)}")
                print(f"  asked by {address_of(who)[0]}; {address_of(other)[0]} was asked from {asked_from}")
    finally:
        for ipv8 in reversed(running):
            await ipv8.stop()


if __name__ == "__main__":
    asyncio.run(main())
