"""What can go wrong on a line.

TelephonyError
├── RemoteError            the peer's fault
│   ├── SipParseError      not a SIP message (carries the status to answer with, where one can be)
│   └── CallFailed         a call placed with ``denwa call`` was not answered
└── LocalError             ours
├── NoFreeLine         every line is taken
├── LineWorkerLost     a line worker died or does not start
└── ChannelError       what a line worker sent is no message
"""


class TelephonyError(Exception):
    """Anything that goes wrong on a line."""


class RemoteError(TelephonyError):
    """The peer broke the protocol."""


class SipParseError(RemoteError):
    """The bytes are no SIP message (RFC 3261 section 7)."""

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


class LocalError(TelephonyError):
    """Denwa's side failed."""


class NoFreeLine(LocalError):
    """Every line is taken."""


class LineWorkerLost(LocalError):
    """A line worker died or does not start."""


class ChannelError(LocalError):
    """What came through a line worker's channel is no message."""


class CallFailed(RemoteError):
    """A call placed with ``denwa call`` was not answered (carries the SIP status, 0 where none came)."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status
