"""The elements of a data set, one header after the other, without keeping their values (PS3.5, clause 7)."""

from __future__ import annotations

from struct import Struct

from pydicom import uid

from agent.dicom.reading import UnusableError, foreign, meta_of

MOST_ELEMENTS = 100_000
"""Headers that are read, those within sequences of undefined length included: a radiograph has some hundreds."""
UNDEFINED = 0xFFFFFFFF
LONG = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
"""Value representations with a length of 32 bits."""
ITEM, ITEM_END, SEQUENCE_END = (0xFFFE, 0xE000), (0xFFFE, 0xE00D), (0xFFFE, 0xE0DD)
PIXEL_DATA = (0x7FE0, 0x0010)


def pixels_of(data: bytes) -> bytes:
    """The encoded value of Pixel Data of a file that `identify` has taken, b"" where there is none.

    Raises UnusableError (`damaged`): it ends within an element, or has too many.
    """
    syntax, at = meta_of(data)
    with foreign("damaged", "it cannot be read to its end"):
        return _Walk(data, syntax).pixels(at)


class _Walk:
    def __init__(self, data: bytes, syntax: str) -> None:
        order = ">" if syntax == uid.ExplicitVRBigEndian else "<"
        self._data = data
        self._tag, self._short, self._long = Struct(order + "HH"), Struct(order + "H"), Struct(order + "I")
        self._read = 0

    def pixels(self, at: int) -> bytes:
        first = self._data[at + 4 : at + 6]
        depth, plain = 0, [not (first.isalpha() and first.isupper())]  # whatever the transfer syntax says, as pydicom reads it
        while at + 8 <= len(self._data):
            tag, vr, start, length = self._header(at, plain[-1])
            if tag in (ITEM_END, SEQUENCE_END):
                depth, at = max(0, depth - 1), start
                del plain[depth + 1 :]
            elif length == UNDEFINED and tag == PIXEL_DATA and depth == 0:
                return self._data[start : self._end_of_fragments(start)]
            elif length == UNDEFINED:
                depth, at = depth + 1, start
                plain.append(plain[-1] or vr == b"UN")  # what is unknown is implicit within (CP-246)
            elif start + length > len(self._data):
                raise UnusableError("damaged", "it ends within an element")
            elif tag == PIXEL_DATA and depth == 0:
                return self._data[start : start + length]
            else:
                at = start + length
        return b""

    def _header(self, at: int, implicit: bool) -> tuple[tuple[int, int], bytes, int, int]:
        """Tag, value representation, where the value begins, its length."""
        self._read += 1
        if self._read > MOST_ELEMENTS:
            raise UnusableError("damaged", f"it has more than {MOST_ELEMENTS} elements")
        tag = self._tag.unpack_from(self._data, at)
        vr = self._data[at + 4 : at + 6]
        if implicit or tag[0] == 0xFFFE:
            return tag, b"", at + 8, self._long.unpack_from(self._data, at + 4)[0]
        if vr in LONG:
            return tag, vr, at + 12, self._long.unpack_from(self._data, at + 8)[0]
        return tag, vr, at + 8, self._short.unpack_from(self._data, at + 6)[0]

    def _end_of_fragments(self, at: int) -> int:
        """Where the delimiter of encapsulated pixel data stands."""
        while at + 8 <= len(self._data):
            tag, _, start, length = self._header(at, True)
            if tag == SEQUENCE_END:
                return at
            at = start + length
        raise UnusableError("damaged", "it ends within its pixel data")
