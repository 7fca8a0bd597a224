"""Samples in and out of pjsua2's frames, past SWIG's one-object-per-byte containers (line worker).

``MediaFrame.buf`` is a C++ ``std::vector<unsigned char>``; copying 20 ms of it through SWIG takes 0.8 ms, through
its pointers 2 us. The layout {begin, end, capacity} is libstdc++'s, not promised by anyone: ``check_layout`` proves
it at start, before any call depends on it.
"""

import ctypes

import pjsua2 as pj

_POINTER = ctypes.sizeof(ctypes.c_void_p)


def _bounds(vector: pj.ByteVector) -> tuple[int, int]:
    """Return the addresses of a vector's first byte and of the byte after its last."""
    at = int(vector.this)
    begin = ctypes.c_void_p.from_address(at).value or 0
    end = ctypes.c_void_p.from_address(at + _POINTER).value or 0
    return begin, end


def read_frame(frame: pj.MediaFrame) -> bytes:
    """Copy the samples out of a frame that the bridge hands over; empty for a frame without audio."""
    if frame.type != pj.PJMEDIA_FRAME_TYPE_AUDIO:
        return b""
    begin, end = _bounds(frame.buf)
    return ctypes.string_at(begin, min(frame.size, end - begin)) if begin else b""


class FrameBuffer:
    """A C++ vector, made once, through which samples go into the frames that the bridge asks for."""

    def __init__(self, size: int) -> None:
        """``size`` in bytes, that of every frame written."""
        self._vector = pj.ByteVector(bytes(size))
        self._size = size
        self._begin, _ = _bounds(self._vector)

    def write(self, frame: pj.MediaFrame, pcm: bytes) -> None:
        """Make ``frame`` carry ``pcm``, exactly ``size`` bytes."""
        assert len(pcm) == self._size
        ctypes.memmove(self._begin, pcm, self._size)
        frame.type = pj.PJMEDIA_FRAME_TYPE_AUDIO
        frame.buf = self._vector
        frame.size = self._size


def check_layout() -> None:
    """Prove that this build of pjsua2 lays its vectors out as this module reads them; raises ``RuntimeError``."""
    pattern = bytes((7 * i + 1) % 256 for i in range(1_280))
    vector = pj.ByteVector(pattern)
    begin, end = _bounds(vector)
    if end - begin != len(pattern):  # look no further: these are no pointers
        raise RuntimeError(f"pjsua2's ByteVector is not laid out as expected ({end - begin} bytes, not {len(pattern)})")
    frame = pj.MediaFrame()
    FrameBuffer(len(pattern)).write(frame, pattern)
    if bytes(frame.buf) != pattern or read_frame(frame) != pattern:
        raise RuntimeError("pjsua2's ByteVector does not give back what was written into it")
