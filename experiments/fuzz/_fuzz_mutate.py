"""Inputs made of valid ones: bytes flipped, cut, doubled, spliced, and numbers and words put where they hurt."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

MOST_BYTES = 1 << 16
MOST_CHANGES = 4
WORDS = (
    *(
        b"0",
        b"-1",
        b"1e308",
        b"-0.0",
        b"nan",
        b"inf",
        b"-inf",
        b"1e-320",
        b"9" * 19,
        b"9" * 400,
        b"9" * 5000,
        b"[" * 3000,
        b"0x10",
        b"1_000",
    ),
    *(b"null", b"true", b"[]", b"{}", b'""', b'"', b"[[", b"]]", b"{", b"}", b",", b"\n", b"\r\n", b":", b"=", b"#"),
    *(b"\x00", b"\xff", b"\xef\xbb\xbf", b"\xed\xa0\x80", "\u0661".encode(), "\u00b2".encode(), b"\\ud800", b"\\u0000"),
    *(b"18446744073709551616", b"2147483648", b"1e1000", b"0001-01-01T00:00:00", b"9999-12-31T23:59:59", b"NaN"),
    *(b"<script>", b"../../etc/passwd", b"a" * 300),
)
NUMBER = re.compile(rb"-?\d+(?:\.\d+)?")
Change = Callable[[random.Random, bytearray, Sequence[bytes]], None]


def _flip(draw: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    if data:
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)


def _replace(draw: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    if data:
        data[draw.randrange(len(data))] = draw.randrange(256)


def _cut(draw: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    at = draw.randrange(len(data) + 1)
    del data[at : at + draw.choice((1, 2, 8, 64, len(data)))]


def _double(draw: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    at = draw.randrange(len(data) + 1)
    data[at:at] = data[at : at + draw.choice((1, 4, 32, 256))] * draw.choice((1, 1, 2, 40))


def _word(draw: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    at = draw.randrange(len(data) + 1)
    data[at : at + draw.choice((0, 0, 1, 4))] = draw.choice(WORDS)


def _number(draw: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    found = list(NUMBER.finditer(data))
    if found:
        chosen = draw.choice(found)
        data[chosen.start() : chosen.end()] = draw.choice(WORDS)


def _splice(draw: random.Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    other = draw.choice(seeds)
    begin = draw.randrange(len(other) + 1)
    at = draw.randrange(len(data) + 1)
    data[at : at + draw.choice((0, 16, len(data)))] = other[begin : begin + draw.choice((8, 64, 4096))]


CHANGES: tuple[Change, ...] = (_flip, _replace, _cut, _double, _word, _word, _number, _number, _splice)


def mutate(draw: random.Random, seeds: Sequence[bytes]) -> bytes:
    """One of the seeds with a few changes; at most MOST_BYTES long. One in thirty is a seed as it is."""
    data = bytearray(draw.choice(seeds))
    if draw.randrange(30):
        for _ in range(draw.randint(1, MOST_CHANGES)):
            draw.choice(CHANGES)(draw, data, seeds)
    return bytes(data[:MOST_BYTES])
