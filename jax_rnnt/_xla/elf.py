"""Tells whether a shared library is cut off: to load one is a bus error, and not an exception."""

import pathlib
import struct

_HEADER = struct.Struct("<4s2B26xQ16xH6x")  # Elf64_Ehdr: magic, class, order, e_phoff, e_phnum
_SEGMENT = struct.Struct("<2I6Q")  # Elf64_Phdr


def is_cut_off(path: pathlib.Path) -> bool:
    """Whether a 64-bit ELF file ends before its segments do."""
    with path.open("rb") as file:
        start = file.read(_HEADER.size)
        if start[:6] != b"\x7fELF\x02\x01":
            return False
        if len(start) < _HEADER.size:
            return True
        *_, table, count = _HEADER.unpack(start)
        file.seek(table)
        segments = file.read(count * _SEGMENT.size)
    if len(segments) < count * _SEGMENT.size:
        return True
    ends = (offset + size for _, _, offset, _, _, size, *_ in _SEGMENT.iter_unpack(segments))
    return max(ends, default=0) > path.stat().st_size
