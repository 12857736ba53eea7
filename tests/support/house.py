"""The rules of ARCHITECTURE.md as functions: a module's name and syntax tree in, offences out.

They read source and import nothing, so that a rule can be shown a planted violation.
"""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]

PACKAGES: Final = ("tunnels", "hidden", "dht", "node", "sim")

FLOORS: Final[tuple[tuple[str, ...], ...]] = (
    ("tunnels.errors", "tunnels.params", "tunnels.ids"),
    ("tunnels.wire", "tunnels.store", "tunnels.fair", "tunnels.timers"),
    ("tunnels.crypto",),
    ("tunnels.circuit", "tunnels.link", "tunnels.path", "tunnels.stream", "tunnels.exit.policy"),
    ("tunnels.engine", "tunnels.keeper", "tunnels.discovery"),
    (
        "tunnels.community",
        "tunnels.loading",
        "tunnels.walker",
        "tunnels.driver",
        "tunnels.endpoint",
        "tunnels.identity",
        "tunnels.settings",
        "tunnels.surroundings",
        "tunnels.exit",
        "sim",
    ),
    ("node.cli", "node.daemon", "node.__main__"),
)
"""What stands on which floor; the longest name that fits a module counts.

A module imports its own floor and lower ones.
"""

LAST_PURE_FLOOR: Final = 4

IMPURE: Final = frozenset(
    {"asyncio", "socket", "time", "random", "threading", "select", "ipv8", "aiohttp", "libtorrent"}
)
"""Clocks, dice and the network: what the pure floors get as arguments instead."""

BORDERS: Final[Mapping[str, frozenset[str]]] = {
    "tunnels": frozenset({"tunnels"}),
    "dht": frozenset({"dht"}),
    "hidden": frozenset({"hidden", "tunnels", "dht"}),
    "node": frozenset({"node", "hidden", "tunnels", "dht"}),
    "sim": frozenset({"sim", "hidden", "tunnels", "dht"}),
}
"""Which of our packages a package may import."""

NATIVE: Final[Mapping[str, tuple[str, ...]]] = {
    "libnacl": ("tunnels.crypto.sodium",),
    "ipv8": (
        "tunnels.community",
        "tunnels.identity",
        "tunnels.loading",
        "tunnels.walker",
        "tunnels.endpoint",
        "tunnels.settings",
        "hidden.community",
        "dht.ipv8",
        "node.daemon",
        "sim.endpoint",
    ),
    "libtorrent": ("dht.mainline",),
    "aiohttp": ("node",),
    "secrets": ("tunnels.crypto.rng",),
    "uuid": (),
    "random": (),
}
"""Library -> the only modules of ours that import it."""

BROAD: Final[Mapping[str, str]] = {
    "node.cli": "loading a subcommand runs somebody else's code",
    "tunnels.community": "a callback is the application's code: its bug must not cost other circuits",
    "tunnels.identity": "what a malformed key raises depends on the library below py-ipv8; such a key signed nothing",
    "tunnels.endpoint.batched": "outermost frame of a datagram: a listener's bug must not cost the rest of a train",
}
"""Modules that may catch everything, once each, and why: above them there is only the event loop or the user."""


def modules() -> dict[str, Path]:
    """Every module of our packages.  An empty `__init__` is a folder, not a module."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        if path.stem != "__init__" or path.read_text().strip()
    }


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def under(module: str, tops: tuple[str, ...]) -> bool:
    return any(f"{module}.".startswith(f"{top}.") for top in tops)


def floor(module: str) -> int | None:
    fits = [(len(top), number) for number, tops in enumerate(FLOORS) for top in tops if under(module, (top,))]
    return max(fits)[1] if fits else None


def imports(tree: ast.Module) -> Iterator[str]:
    """Every name imported anywhere in a module, `from a import b` as both `a` and `a.b`: b may be a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = "." * node.level + (node.module or "")
            yield origin
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def upward_imports(module: str, tree: ast.Module) -> list[str]:
    own = floor(module)
    if own is None:
        return [f"{module}: say in FLOORS where it lives"]
    return [f"{module} imports {name}" for name in imports(tree) if name[0] == "." or (floor(name) or 0) > own]


def impure_imports(module: str, tree: ast.Module) -> list[str]:
    own = floor(module)
    if own is None or own > LAST_PURE_FLOOR:
        return []
    return [f"{module} imports {name}" for name in imports(tree) if name.split(".")[0] in IMPURE | {"importlib"}]


def border_crossings(module: str, tree: ast.Module) -> list[str]:
    foreign = frozenset(PACKAGES) - BORDERS[module.split(".", maxsplit=1)[0]]
    return [f"{module} imports {name}" for name in imports(tree) if name.split(".")[0] in foreign]


def native_imports(module: str, tree: ast.Module) -> list[str]:
    return [
        f"{module} imports {name}"
        for name in imports(tree)
        if (allowed := NATIVE.get(name.split(".")[0])) is not None and not under(module, allowed)
    ]


DICE: Final = frozenset({"urandom", "getrandom", "SystemRandom"})
"""Names of functions that draw from the system's dice by themselves."""

GENERATORS: Final = frozenset({"generate", "generate_key", "generate_private_key"})
"""So do these, when they are not handed an Rng."""

OWN_DICE: Final = ("tunnels.crypto.rng", "tunnels.crypto.kem")
"""The Rng of production, and ML-KEM, whose randomness `cryptography` keeps to itself."""


def ambient_dice(module: str, tree: ast.Module) -> list[str]:
    own = floor(module)
    if own is None or own > LAST_PURE_FLOOR or under(module, OWN_DICE):
        return []
    return [
        f"{module}:{node.lineno} calls {name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and ((name := last_name(node.func)) in DICE or (name in GENERATORS and not node.args))
    ]


SECRET_WORD: Final = re.compile(
    r"(^|_)(tags?|h?macs?|auth|cookies?|authenticators?|tokens?|secrets?|ss)\d*(_|$)", re.IGNORECASE
)
"""In a name: what it holds is compared in constant time."""

MEASURE_WORD: Final = re.compile(r"_(size|len|length|count|offset|limit|lifetime|at|id)$", re.IGNORECASE)
"""At the end of a name: it is a number about the thing and not the thing."""


def last_name(node: ast.expr) -> str:
    """`tag` of `tag`, `cell.tag`, `tag(...)`, `cell.tag[:4]`, `bytes(tag)`; empty when there is none."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.Call(func=ast.Name(id="bytes" | "bytearray" | "memoryview"), args=[argument, *_]):
            return last_name(argument)
        case ast.Call(func=ast.Attribute(value=value, attr="tobytes" | "digest" | "hex")):
            return last_name(value)
        case ast.Call(func=inner) | ast.Subscript(value=inner) | ast.NamedExpr(target=inner):
            return last_name(inner)
        case _:
            return ""


def open_compares(module: str, tree: ast.Module) -> list[str]:
    """`==`, `!=` and `in` on what has to be compared in constant time (sodium.equal)."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and any(
            isinstance(operator, ast.Eq | ast.NotEq | ast.In | ast.NotIn) for operator in node.ops
        ):
            names = [last_name(operand) for operand in (node.left, *node.comparators)]
            found += [
                f"{module}:{node.lineno} compares {name}"
                for name in names
                if SECRET_WORD.search(name) and not MEASURE_WORD.search(name)
            ]
    return found


def floor_in_docstring(module: str, tree: ast.Module) -> list[str]:
    named = re.findall(r"\bFloor (\d)\b", ast.get_docstring(tree) or "")
    if named and named[0] == str(floor(module)):
        return []
    return [f"{module}: its docstring says floor {named[0] if named else 'nothing'}, FLOORS says {floor(module)}"]


def broad_catches(module: str, tree: ast.Module) -> list[str]:
    """Every place that catches all exceptions, in whatever spelling; one that ends in `raise` tidies up and lets go."""
    found = []
    for node in ast.walk(tree):
        match node:
            case ast.ExceptHandler(body=[*_, ast.Raise(exc=None)]):
                continue
            case ast.ExceptHandler(type=None):
                caught = ["everything"]
            case ast.ExceptHandler(type=ast.expr() as kinds):
                caught = [last_name(kind) for kind in (kinds.elts if isinstance(kinds, ast.Tuple) else [kinds])]
            case ast.Call(func=function, args=kinds) if last_name(function) == "suppress":
                caught = [last_name(kind) for kind in kinds]
            case _:
                continue
        if {"everything", "Exception", "BaseException"} & set(caught):
            found.append(f"{module}:{node.lineno} catches {', '.join(caught)}")
    return found
