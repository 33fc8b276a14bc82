"""Valid inputs, spoilt: bytes as a failing disk or a careless hand leaves them, values as a stranger writes them."""

import copy
import math
import random
from collections.abc import Callable, Iterator
from typing import Any

STRANGE: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 3, 2**31, 2**63, -(2**63) - 1, 10**400, 10**5000),
    *(0.0, -0.0, 0.5, 1e-320, 1e308, -1e308, math.nan, math.inf, -math.inf),
    *("", "0", "1", "inf", "-inf", "nan", "true", "digits", "../../x", "/x", "a\0b", "\ud800", "x" * 5000, "ü"),
    *([], {}, [[]], [None], ["ce", "ce"], [1, 2, 3], [3, 2, 1], [0.5, "inf"], {"": 1}, {"name": {}}, {"eps": [1]}),
)


def generators(count: int) -> Iterator[random.Random]:
    """One for each input, named by its number: what fails can be made again."""
    for number in range(count):
        yield random.Random(number)


def spoilt_bytes(content: bytes, draw: random.Random) -> bytes:
    """One to three changes."""
    for _ in range(draw.randint(1, 3)):
        content = draw.choice(BYTE_CHANGES)(content, draw)
    return content


def _place(content: bytes, draw: random.Random) -> tuple[int, int]:
    start = draw.randrange(len(content) + 1)
    return start, min(start + draw.choice((1, 1, 2, 4, 8, 64, 512)), len(content))


def _flip(content: bytes, draw: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 8))):
        if changed:
            changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def _overwrite(content: bytes, draw: random.Random) -> bytes:
    start, end = _place(content, draw)
    filled = draw.choice((bytes(end - start), b"\xff" * (end - start), draw.randbytes(end - start)))
    return content[:start] + filled + content[end:]


def _cut(content: bytes, draw: random.Random) -> bytes:
    return content[: draw.randrange(len(content) + 1)]


def _remove(content: bytes, draw: random.Random) -> bytes:
    start, end = _place(content, draw)
    return content[:start] + content[end:]


def _repeat(content: bytes, draw: random.Random) -> bytes:
    start, end = _place(content, draw)
    return content[:end] + content[start:end] * draw.choice((1, 2, 50)) + content[end:]


def _insert(content: bytes, draw: random.Random) -> bytes:
    start, _ = _place(content, draw)
    piece = draw.choice((b"\0" * 16, b"\n", b"NaN", b"1e999", b'"', b"{", b"[" * 2000, b"9" * 5000, draw.randbytes(8)))
    return content[:start] + piece + content[start:]


BYTE_CHANGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (_flip, _overwrite, _cut, _remove, _repeat, _insert)


def spoilt_value(value: Any, draw: random.Random) -> Any:
    """JSON values of which one to three parts were replaced, removed, renamed or added."""
    value = copy.deepcopy(value)
    for _ in range(draw.randint(1, 3)):
        places = list(_places(value))
        if not places:
            return _strange(draw)
        holder, key = draw.choice(places)
        change = draw.randrange(6)
        if change < 3:
            holder[key] = _strange(draw)
        elif change == 3:
            del holder[key]
        elif isinstance(holder, list):
            holder.insert(key, draw.choice(holder))
        elif change == 4:
            holder[draw.choice(("", "x", f"{key} ", str(key).upper(), "__class__", "self", 1, None))] = holder.pop(key)
        else:
            holder[draw.choice(("extra", "name", "seed", "\0"))] = _strange(draw)
    return value


def _strange(draw: random.Random) -> Any:
    if draw.randrange(20):
        return copy.deepcopy(draw.choice(STRANGE))
    deep: Any = draw.choice(STRANGE)
    for _ in range(draw.choice((5, 50, 5000))):
        deep = draw.choice(([deep], {"name": deep}))
    return deep


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container within a value with each key of it."""
    waiting = [value]
    while waiting:
        holder = waiting.pop()
        items = (
            list(holder.items() if isinstance(holder, dict) else enumerate(holder))
            if isinstance(holder, dict | list)
            else []
        )
        for key, item in items:
            yield holder, key
            waiting.append(item)
