"""A stereo 16-bit FLAC file that can be played at any moment of its making. Used by the recorder's thread."""

import os
from pathlib import Path
from typing import Final

import numpy as np
import soundfile
from numpy.typing import NDArray

_LEVEL: Final = 0.25
"""libFLAC's level 2: blocks of 1,152 samples instead of 4,096, so that little is lost in a crash."""
_BLOCK_AT: Final = 8
"""Where STREAMINFO has the block size, 16 bits (RFC 9639 section 8.2)."""
_TOTAL_AT: Final = 21
"""Where it has the number of samples, the lower 36 bits of 5 bytes; the upper 4 belong to the sample size."""


class FlacFile:
    """Appends samples to a new FLAC file; after every ``write`` its header tells how many are in whole blocks.

    libsndfile tells the number at the end only, and readers take a file that was cut off for endless or empty.
    Raises ``OSError``, and ``FileExistsError`` where there is a file already.
    """

    def __init__(self, path: Path, sample_rate: int) -> None:
        self._frames = 0
        self._block = 0
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o640)
        try:
            self._file = soundfile.SoundFile(
                self._fd, "w", sample_rate, 2, "PCM_16", format="FLAC", closefd=False, compression_level=_LEVEL
            )
        except soundfile.SoundFileError as error:
            os.close(self._fd)
            raise OSError(f"no FLAC file can be written: {error}") from error

    def write(self, samples: NDArray[np.int16]) -> None:
        """Append ``int16 [n, 2]``."""
        try:
            self._file.write(samples)
        except (soundfile.SoundFileError, AssertionError) as error:  # it asserts that all was written
            raise OSError(f"the FLAC encoder could not write: {error}") from error
        self._frames += len(samples)
        self._tell_length()

    def close(self) -> None:
        """Write what the encoder holds back, and the file's length and checksum; idempotent.

        A file without samples gets one of silence.
        """
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        try:
            if not self._frames:  # without a block there would be no header either
                self._file.write(np.zeros((1, 2), np.int16))
            self._file.close()
        except (soundfile.SoundFileError, AssertionError) as error:
            raise OSError(f"the FLAC encoder could not end the file: {error}") from error
        finally:
            os.close(fd)

    def _tell_length(self) -> None:
        """Write into the header how many samples stand behind it: the encoder gives out whole blocks, one late."""
        if not self._block:
            self._block = int.from_bytes(os.pread(self._fd, 2, _BLOCK_AT), "big")
        if not self._block:  # nothing is on disk yet
            return
        whole = max(0, self._frames - 1) // self._block * self._block
        size_and_total = os.pread(self._fd, 5, _TOTAL_AT)
        total = (size_and_total[0] & 0xF0) << 32 | whole
        os.pwrite(self._fd, total.to_bytes(5, "big"), _TOTAL_AT)
