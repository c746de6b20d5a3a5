"""Odd values, and damage to bytes and to the structure of JSON and YAML."""

import json
import random
from pathlib import Path
from typing import Any

from tests.faults import damage

WORDS = (
    *("", "null", "true", "0", "-1", "1", "1.5", "1e400", "-1e400", "nan", "inf", "0x10", "1_0"),
    *("9223372036854775808", "1e300", "x", "'it''s'", "[]", "[1,2]", "{}", "{a: 1}", "a b"),
    *("${seed}", "${oc.env:HOME}", "ü😀", "/dev/null", "..", "a" * 300, "9" * 4400, "2024-13-45"),
    *("[[[[[]]]]]", "0b_", "\x1b]0;OWNED\x07", "a=b", "~", "%d", "1:2", ".5.", "- 1", "#", "'"),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 1.5, 1e300, 2**63, 2**31, 10**12, -(2**40)),
    *("", "x", "null", "\x1b]0;OWNED\x07", "a" * 5000, "../../etc/passwd", "/dev/zero", "${seed}"),
    *([], {}, [1], ["a", None], {"a": 1}, [[]], {"": {}}, float("inf"), float("nan")),
)


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Bytes with one to three damages."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(len(data) + 1)
        length = rng.choice((1, 1, 4, 50, 1000))
        way = rng.randrange(8)
        if way == 0:
            data = data[:at]
        elif way == 1 and data:
            at = min(at, len(data) - 1)
            data = data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
        elif way == 2:
            data = data[:at] + bytes(length) + data[at + length :]
        elif way == 3:
            data = data[:at] + rng.randbytes(length) + data[at:]
        elif way == 4:
            data = data[:at] + data[at + length :]
        elif way == 5:
            data = data[:at] + data[at : at + length] * 3 + data[at:]
        elif way == 6:
            word = rng.choice((b"\xff\xfe", b"\xef\xbb\xbf", b"\0", b"\r", b"\t\t", b'"', b"\x85"))
            data = data[:at] + word + data[at:]
        else:
            numbers = (b"-1", b"99999999999999999999", b"1e999", b"NaN", b"0")
            data = data[:at] + rng.choice(numbers) + data[at + 1 :]
    return data


def restructured(value: Any, rng: random.Random) -> Any:
    """A JSON-like value in which one part is replaced, deleted, renamed or nested deeply."""
    places = list(_places(value))
    if not places:
        return rng.choice(VALUES)
    container, key = rng.choice(places)
    way = rng.randrange(6)
    if way == 0:
        del container[key]
    elif way == 1 and isinstance(container, dict):
        container[rng.choice(("", "x", "\x1b]0;OWNED\x07", "_target_", "é"))] = container.pop(key)
    elif way == 2:
        container[key] = [container[key]] * rng.choice((1, 3))
    else:
        container[key] = rng.choice(VALUES)
    return value


def _places(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, dict):
        return [(value, k) for k in value] + [p for v in value.values() for p in _places(v)]
    if isinstance(value, list):
        own = [(value, n) for n in range(min(len(value), 20))]
        return own + [p for v in value[:20] for p in _places(v)]
    return []


def spoil(path: Path, rng: random.Random) -> str:
    """Damage a file in any way; returns how."""
    text_like = path.suffix in (".json", ".yaml")
    way = rng.choice(("bytes", "bytes", "other", *("structure", "structure") * text_like))
    if way == "bytes":
        path.write_bytes(mutated(path.read_bytes(), rng))
        return "bytes"
    if way == "other":
        how = rng.choice(damage.WAYS)
        damage.damage(path, how, rng)
        return how
    if path.suffix == ".json":
        changed = restructured(json.loads(path.read_text()), rng)
        text = json.dumps(changed)
        if rng.random() < 0.03:
            text = "[" * 5000
        path.write_text(text)
    else:
        import yaml

        changed = restructured(yaml.safe_load(path.read_text()), rng)
        text = yaml.safe_dump(changed, allow_unicode=True)
        if rng.random() < 0.1:
            text += rng.choice(BOMBS)
        path.write_text(text)
    return "structure"


BOMBS = (
    "bomb: " + "[" * 3000,
    "x: !!python/object/apply:os.system [false]\n",
    "x: 2024-13-45\n",
    "x: !!int y\n",
    "x: &a [*a]\n",
    "a: &a [x,x,x,x]\nb: &b [*a,*a,*a,*a]\nc: &c [*b,*b,*b]\ntask: {name: *c}\n",
)
