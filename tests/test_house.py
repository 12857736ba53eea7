"""ARCHITECTURE.md, enforced: who may import whom, what is pure, what may be caught, compared and rolled."""

import ast
from collections.abc import Callable

import pytest

from tests.support import house

MODULES = house.modules()
TREES = {module: house.parse(path) for module, path in MODULES.items()}

Rule = Callable[[str, ast.Module], list[str]]
RULES: tuple[Rule, ...] = (
    house.upward_imports,
    house.impure_imports,
    house.border_crossings,
    house.native_imports,
    house.ambient_dice,
    house.open_compares,
    house.floor_in_docstring,
)


@pytest.mark.parametrize("module", MODULES)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_module_keeps_every_rule(rule: Rule, module: str) -> None:
    assert rule(module, TREES[module]) == []


def test_everything_is_caught_only_where_the_table_gives_a_reason_and_once_there() -> None:
    caught = {module: found for module, tree in TREES.items() if (found := house.broad_catches(module, tree))}
    assert caught.keys() <= house.BROAD.keys()
    assert all(len(found) == 1 for found in caught.values())


def test_the_tables_name_no_module_that_is_gone() -> None:
    assert house.BROAD.keys() | set(house.OWN_DICE) <= MODULES.keys()


PLANTED: tuple[tuple[Rule, str, str], ...] = (
    (house.upward_imports, "tunnels.wire.cell", "from tunnels.crypto import sodium"),
    (house.upward_imports, "tunnels.wire.cell", "from tunnels import engine"),
    (house.upward_imports, "tunnels.wire.cell", "def f():\n    import tunnels.link.session"),
    (house.upward_imports, "tunnels.wire.cell", "from . import reader"),
    (house.upward_imports, "tunnels.exit.policy", "from tunnels.exit.udp import Sockets"),
    (house.upward_imports, "tunnels.on_no_floor", ""),
    (house.impure_imports, "tunnels.engine", "import asyncio"),
    (house.impure_imports, "tunnels.params", "from time import monotonic"),
    (house.impure_imports, "tunnels.link.session", "if True:\n    import socket as s"),
    (house.impure_imports, "tunnels.link.session", "import importlib"),
    (house.border_crossings, "tunnels.engine", "from hidden import keys"),
    (house.border_crossings, "node.cli", "import sim.network"),
    (house.border_crossings, "sim.network", "from node.cli import main"),
    (house.native_imports, "tunnels.crypto.onion", "import libnacl.public"),
    (house.native_imports, "tunnels.link.session", "from ipv8.peer import Peer"),
    (house.native_imports, "sim.network", "import random"),
    (house.native_imports, "tunnels.crypto.x25519", "import secrets"),
    (house.ambient_dice, "tunnels.crypto.x25519", "key = X25519PrivateKey.generate()"),
    (house.ambient_dice, "tunnels.link.session", "import os\nnonce = os.urandom(12)"),
    (house.open_compares, "tunnels.link.session", "if tag == expected: pass"),
    (house.open_compares, "tunnels.link.session", "ok = expected != cell.mac1[:16]"),
    (house.open_compares, "tunnels.link.session", "ok = bytes(cookie) == other"),
    (house.open_compares, "tunnels.link.session", "ok = hmac(key, text) == other"),
    (house.open_compares, "tunnels.link.session", "ok = mac.digest() == other"),
    (house.open_compares, "tunnels.link.session", "ok = new_cookie in (old, older)"),
    (house.open_compares, "tunnels.crypto.handshake", "ok = a == b == AUTH"),
    (house.floor_in_docstring, "tunnels.wire.cell", '"""Cells."""'),
    (house.floor_in_docstring, "tunnels.wire.cell", '"""Cells.  Floor 2."""'),
    (house.broad_catches, "node.cli", "try: pass\nexcept Exception: pass"),
    (house.broad_catches, "node.cli", "try: pass\nexcept (ValueError, BaseException): pass"),
    (house.broad_catches, "node.cli", "try: pass\nexcept: pass"),
    (house.broad_catches, "node.cli", "with contextlib.suppress(Exception): pass"),
)


@pytest.mark.parametrize(("rule", "module", "source"), PLANTED)
def test_a_planted_violation_is_found(rule: Rule, module: str, source: str) -> None:
    assert rule(module, ast.parse(source))


INNOCENT: tuple[tuple[Rule, str, str], ...] = (
    (house.upward_imports, "tunnels.engine", "from tunnels.wire import cell\nfrom tunnels import params"),
    (house.upward_imports, "tunnels.exit.udp", "from tunnels.exit.policy import Policy"),
    (house.impure_imports, "tunnels.endpoint.udp", "import asyncio, socket"),
    (house.border_crossings, "sim.network", "from hidden import keys"),
    (house.native_imports, "tunnels.crypto.sodium", "import libnacl"),
    (house.native_imports, "tunnels.endpoint.face", "from ipv8.messaging.interfaces.endpoint import Endpoint"),
    (house.ambient_dice, "tunnels.crypto.rng", "import os\nos.urandom(32)"),
    (house.ambient_dice, "tunnels.crypto.x25519", "key = X25519PrivateKey.from_private_bytes(rng.bytes(32))"),
    (house.ambient_dice, "tunnels.link.session", "key = KeyPair.generate(rng)"),
    (house.open_compares, "tunnels.link.session", "ok = len(tag) == TAG_SIZE and cookie is None and stage == 1"),
    (house.floor_in_docstring, "tunnels.wire.cell", '"""Cells (SPEC 2).\n\nFloor 1: bytes in, values out."""'),
    (house.broad_catches, "node.cli", "try: pass\nexcept (ValueError, OSError): pass"),
    (house.broad_catches, "node.cli", "try: pass\nexcept BaseException:\n    close()\n    raise"),
)


@pytest.mark.parametrize(("rule", "module", "source"), INNOCENT)
def test_what_is_allowed_is_not_complained_about(rule: Rule, module: str, source: str) -> None:
    assert rule(module, ast.parse(source)) == []
