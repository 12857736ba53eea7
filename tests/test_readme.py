"""README's code runs as it is printed, and the example that README sends its readers to is that code."""

import asyncio
import re
from typing import Any, Final

from ipv8.configuration import ConfigBuilder

from examples import embed_in_p2p_app as example
from tests.support.house import ROOT
from tests.tunnels.endpoint.loopback import run
from tests.tunnels.exit.test_udp import Echo
from tunnels.loading import tunnels_of

BLOCKS: Final = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)

PATIENCE: Final = 60.0
"""Seconds for what takes five on an idle machine."""


def test_the_code_to_embed_takes_ten_lines() -> None:
    [block] = BLOCKS
    functions = re.split(r"^async def .*\n", block, flags=re.MULTILINE)[1:]
    assert sum(bool(line.strip()) for body in functions for line in body.splitlines()) <= 10


def test_the_example_has_the_code_of_readme_word_for_word() -> None:
    [block] = BLOCKS
    assert block[block.index("async def") :] in (ROOT / "examples/embed_in_p2p_app.py").read_text()


def test_the_code_of_readme_asks_a_server_through_three_relays_found_from_one_address() -> None:
    [block] = BLOCKS
    readme: dict[str, Any] = {}
    exec(compile(block, "README.md", "exec"), readme)

    async def main() -> None:
        first = await example.relay(1, [])
        here = [example.address_of(first)]
        relays = [first, *[await example.relay(number, here) for number in range(2, 6)]]
        server = Echo("127.20.0.1")
        builder = ConfigBuilder().clear_keys().clear_overlays().set_log_level("ERROR").add_ephemeral_key("app")
        builder.set_address("127.11.0.1").set_port(0).add_overlay("Library", "app", [], [], {}, [])
        ipv8 = await readme["embedded"](
            builder, {"Library": example.Library}, bootstrap=here, **example.ON_THIS_MACHINE
        )  # fmt: skip
        async with asyncio.timeout(PATIENCE):
            assert await readme["ask"](ipv8, ("127.20.0.1", server.port), b"question") == b"question"
        [circuit, *_] = tunnels_of(ipv8).active_data_circuits()
        assert len(circuit.path) == 3
        for node in (ipv8, *relays):
            await node.stop()
        server.close()

    run(main)
