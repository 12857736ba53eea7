"""Ours under IPv8's loader: `IPv8(configuration, extra_communities=tropea_communities())`.  Floor 5.

    builder = add_tunnels(ConfigBuilder(), hops=3, bootstrap=[("192.0.2.1", 8090)])

py-ipv8 has a TunnelCommunity of its own, and where a name is taken its loader prefers its own class without a word.
So ours is loaded under a name that nobody else has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tunnels.community import TunnelCommunity
from tunnels.errors import LocalError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ipv8.configuration import ConfigBuilder
    from ipv8.overlay import Overlay
    from ipv8_service import IPv8

OVERLAY: Final = "TropeaTunnelCommunity"
"""What our overlay is called in IPv8's configuration."""

THROWAWAY_KEY: Final = "tropea throw-away"
"""Alias of the key that lasts as long as the process."""


def tropea_communities() -> dict[str, type[Overlay[Any]]]:
    """What IPv8 has to be told as `extra_communities`, alone or joined with an application's own."""
    return {OVERLAY: TunnelCommunity}


def add_tunnels(
    builder: ConfigBuilder, *, hops: int | None = None, key_alias: str | None = None, **settings: Any
) -> ConfigBuilder:
    """Configure one overlay of ours, beside whatever `builder` has.  It walks by itself: no walkers, no bootstrappers.

    Args:
        hops: build circuits of so many hops from the start; None waits for `build_tunnels`.
        key_alias: a key that `builder` has; a relay keeps its name by it.  None takes a new key at each start, by which
            a client cannot be recognised.
        settings: fields of TunnelSettings.

    Returns:
        `builder`.

    Raises:
        ValueError: settings have relay_addresses, and there is no key_alias.
    """
    if key_alias is None:
        _check_nameless(settings)
        builder.add_ephemeral_key(THROWAWAY_KEY)
    on_start = [] if hops is None else [("build_tunnels", hops)]
    return builder.add_overlay(OVERLAY, key_alias or THROWAWAY_KEY, [], [], settings, on_start)


def tunnels_of(ipv8: IPv8) -> TunnelCommunity:
    """The overlay of ours that `ipv8` has loaded.

    Raises:
        LocalError: it has loaded none.
    """
    tunnels = ipv8.get_overlay(TunnelCommunity)
    if tunnels is None:
        raise LocalError(f"no {OVERLAY} is loaded: call add_tunnels(builder) before finalize()")
    return tunnels


def _check_nameless(settings: Mapping[str, Any]) -> None:
    if settings.get("relay_addresses"):
        raise ValueError("relay_addresses are set, so key_alias must name a key: a relay keeps its name over restarts")
