"""A stereo 16-bit WAV file that can be played at any moment of its making. Used by the recorder's thread."""

import os
import struct
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

CHANNELS: Final = 2
_HEADER: Final = struct.Struct("<4sI4s4sIHHIIHH4sI")  # RIFF, one fmt chunk, one data chunk
_FRAME_BYTES: Final = 2 * CHANNELS
_MAX_DATA: Final = 0xFFFF_FFFF - _HEADER.size - _FRAME_BYTES
"""A RIFF's sizes are 32 bits wide: 12.4 hours at 24 kHz."""


class FileFull(OSError):
    """The format cannot hold more."""


class WavFile:
    """Appends samples to a new WAV file; after every ``write`` its header tells its true length.

    Raises ``OSError``, and ``FileExistsError`` where there is a file already.
    """

    def __init__(self, path: Path, sample_rate: int) -> None:
        self._rate = sample_rate
        self._bytes = 0
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o640)
        try:
            os.pwrite(self._fd, self._header(), 0)
            os.lseek(self._fd, _HEADER.size, os.SEEK_SET)
        except OSError:
            self.close()
            raise

    def write(self, samples: NDArray[np.int16]) -> None:
        """Append ``int16 [n, 2]``; raises ``FileFull`` instead where the file would grow beyond 4 GiB."""
        data = samples.astype("<i2", copy=False).tobytes()
        if self._bytes + len(data) > _MAX_DATA:
            raise FileFull("a WAV file holds no more than 4 GiB")
        left = memoryview(data)
        try:
            while left:
                written = os.write(self._fd, left)
                left = left[written:]
                self._bytes += written
        finally:  # of a disk that is full too
            os.pwrite(self._fd, self._header(), 0)

    def close(self) -> None:
        """Close the file; idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _header(self) -> bytes:
        rate = self._rate
        size = self._bytes - self._bytes % _FRAME_BYTES
        form = (16, 1, CHANNELS, rate, rate * _FRAME_BYTES, _FRAME_BYTES, 16)  # 1: PCM
        return _HEADER.pack(b"RIFF", _HEADER.size - 8 + size, b"WAVE", b"fmt ", *form, b"data", size)
