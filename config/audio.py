"""The audio contract between a line and a model: every part of Denwa speaks exactly this.

Mono, signed 16-bit, 24,000 Hz, in frames of 1,920 samples: the frame of the Mimi codec at 12.5 Hz
(arXiv 2410.00037, section 3.3). A frame is an array ``int16 [1920]``, not a class.
"""

from typing import Final

SAMPLE_RATE: Final = 24_000  # Hz
FRAME_SAMPLES: Final = 1_920
FRAME_S: Final = FRAME_SAMPLES / SAMPLE_RATE  # 0.08 s
FRAME_RATE: Final = SAMPLE_RATE / FRAME_SAMPLES  # 12.5 Hz
FRAME_BYTES: Final = FRAME_SAMPLES * 2

TICK_S: Final = 0.02
"""The line's clock: a packet's worth of audio leaves for, and comes from, the peer every 20 ms."""
