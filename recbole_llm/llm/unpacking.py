"""Read xz files in bounded memory: without a bound, the file decides how much memory unpacking takes."""

from __future__ import annotations

import io
import lzma
from pathlib import Path
from typing import IO, Any, cast

MOST_MEMORY = 256 << 20
BLOCK = 1 << 18


class XzFile(io.RawIOBase):
    """The contents of an xz file as a stream; a file that was joined from several holds one after the other.

    Args:
        packed: the file.

    Raises:
        lzma.LZMAError: while reading: the file is damaged, or needs more memory than ``MOST_MEMORY``.
        EOFError: while reading: the file is cut off.
    """

    def __init__(self, packed: IO[bytes]) -> None:
        self._packed = packed
        self._unpacker = lzma.LZMADecompressor(memlimit=MOST_MEMORY)
        self._first = b""  # bytes of a joined file that were read before its unpacker

    @classmethod
    def opened(cls, path: Path) -> IO[bytes]:
        """A stream of a file's contents that can read lines."""
        return cast(IO[bytes], io.BufferedReader(cls(path.open("rb")), BLOCK))

    def readable(self) -> bool:
        """Whether the stream can be read: always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read unpacked bytes into a buffer; returns their number, 0 at the end."""
        data = b""
        while not data and (not self._unpacker.eof or self._goes_on()):
            block, self._first = self._first, b""
            if not block and self._unpacker.needs_input:
                block = self._packed.read(BLOCK)
                if not block:
                    raise EOFError("it is cut off")
            data = self._unpacker.decompress(block, max_length=len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _goes_on(self) -> bool:
        """Whether another file was joined to the one that has ended; zeros may stand between them."""
        rest = self._unpacker.unused_data.lstrip(b"\0")
        while not rest and (block := self._packed.read(BLOCK)):
            rest = block.lstrip(b"\0")
        if rest:
            self._unpacker, self._first = lzma.LZMADecompressor(memlimit=MOST_MEMORY), rest
        return bool(rest)

    def close(self) -> None:
        """Close the file."""
        self._packed.close()
        super().close()
