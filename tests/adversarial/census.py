"""What a node holds: every object that can be reached from its engine, with its size.

Shared things are no node's own: classes, modules, code, the loop, the virtual network, the directory.
"""

import asyncio
import gc
import sys
import types
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from typing import Any, Final

from sim.network import VirtualNetwork
from tests.adversarial.capture import DrawnKem
from tests.support.nodes import Node, World
from tunnels.link.outbox import TrainPool
from tunnels.path.directory import Directory

NOT_OWN: Final = (
    type,
    types.ModuleType,
    types.CodeType,
    types.BuiltinFunctionType,
    types.GetSetDescriptorType,
    types.FrameType,
    Enum,
    asyncio.AbstractEventLoop,
    VirtualNetwork,
    Directory,
    DrawnKem,
    Node,
    World,
)


def reachable(roots: Iterable[object], skip: Callable[[object], bool] = lambda thing: False) -> Iterator[object]:
    """Every object that hangs on `roots`, once each."""
    seen: set[int] = set()
    todo = list(roots)
    while todo:
        thing = todo.pop()
        if id(thing) in seen or isinstance(thing, NOT_OWN) or skip(thing):
            continue
        seen.add(id(thing))
        yield thing
        if isinstance(thing, types.FunctionType):
            todo += thing.__closure__ or ()
            todo += thing.__defaults__ or ()
        else:
            todo += gc.get_referents(thing)


def weight(node: Node) -> int:
    """Bytes, without the trains that wait to be used again: TrainPool has a bound of its own."""
    return sum(sys.getsizeof(thing) for thing in reachable([node.engine], lambda thing: isinstance(thing, TrainPool)))


def heaviest(node: Node, number: int = 12) -> list[tuple[str, int, int]]:
    """For a look at what grew: type, how many, bytes."""
    sizes: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for thing in reachable([node.engine]):
        name = type(thing).__qualname__
        sizes[name] += sys.getsizeof(thing)
        counts[name] += 1
    return [(name, counts[name], size) for name, size in sizes.most_common(number)]


def longest(node: Node) -> dict[str, int]:
    """By owner and attribute, the length of every container that an object of ours holds: the longest of each kind."""
    found: dict[str, int] = {}
    for thing in reachable([node.engine]):
        if not type(thing).__module__.startswith("tunnels."):
            continue
        for name, value in attributes(thing):
            if hasattr(type(value), "__len__") and not isinstance(value, str | bytes | bytearray | memoryview):
                key = f"{type(thing).__qualname__}.{name}"
                found[key] = max(found.get(key, 0), len(value))
    return found


def attributes(thing: object) -> Iterator[tuple[str, Any]]:
    names = [name for cls in type(thing).__mro__ for name in getattr(cls, "__slots__", ())]
    for name in dict.fromkeys([*names, *getattr(thing, "__dict__", {})]):
        if hasattr(thing, name):
            yield name, getattr(thing, name)
