"""The complement of a mask in COCO's compressed run lengths, with no pixel looked at.

pycocotools joins and intersects codes, and has no way to take one from another. Its format (``rleToString`` in
cocoapi's ``maskApi.c``): run lengths outside, inside, outside, …; from the fourth on less the one two before; each
five bits a character from the lowest up, the sixth bit saying that more follow, the highest being the sign.
"""

from __future__ import annotations

_FIRST = 48
_PLAIN = 3  # run lengths that are written as they are


def complement(counts: bytes) -> bytes:
    """The code of what is outside; of a mask of at least one pixel."""
    head, rest = _head(counts, _PLAIN + 1)
    if head[0]:
        kept = [0, *head[:2], *(length - before for length, before in zip(head[2:3], head, strict=False))]
        return b"".join(map(_written, [*kept, *head[3:]])) + rest
    kept = [*head[1:3], *(less + before for less, before in zip(head[3:], head[1:], strict=False))]
    return b"".join(map(_written, kept)) + rest


def _head(counts: bytes, most: int) -> tuple[list[int], bytes]:
    """The first numbers of a code, and the rest of it."""
    numbers, at = list[int](), 0
    while at < len(counts) and len(numbers) < most:
        value, shift, more = 0, 0, True
        while more:
            byte = counts[at] - _FIRST
            value |= (byte & 0x1F) << shift
            more, shift, at = bool(byte & 0x20), shift + 5, at + 1
            if not more and byte & 0x10:
                value -= 1 << shift
        numbers.append(value)
    return numbers, counts[at:]


def _written(number: int) -> bytes:
    out, more = bytearray(), True
    while more:
        byte = number & 0x1F
        number >>= 5
        more = number != (-1 if byte & 0x10 else 0)
        out.append((byte | 0x20 if more else byte) + _FIRST)
    return bytes(out)
