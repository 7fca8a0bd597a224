"""The soundfile names that Denwa uses."""

import numpy as np
from numpy.typing import NDArray

class SoundFileError(Exception): ...

class SoundFile:
    def __init__(
        self,
        file: int,
        mode: str,
        samplerate: int,
        channels: int,
        subtype: str,
        *,
        format: str,
        closefd: bool = True,
        compression_level: float | None = None,
    ) -> None: ...
    def write(self, data: NDArray[np.int16]) -> None: ...
    def close(self) -> None: ...

class _SoundFileInfo:
    frames: int
    samplerate: int
    duration: float

def info(file: str) -> _SoundFileInfo: ...
