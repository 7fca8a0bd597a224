"""A PJSIP endpoint set up for telephone audio without a sound card (line worker, ``denwa call``).

One thread makes every pjsua2 call and turns the event loop; the media callbacks come on PJSIP's own clock thread.
"""

import ctypes
import os
from collections.abc import Sequence
from typing import Final

import pjsua2 as pj
from pjsua2 import _pjsua2  # the extension module

from config.audio import TICK_S

_TICK_MS: Final = round(TICK_S * 1_000)
_ASKED_CALLS: Final = 10_000  # PJSIP lowers it to what it was compiled for
_MAX_EVENTS: Final = 256

_library = ctypes.CDLL(_pjsua2.__file__)


def read_capacity() -> int:
    """Ask the library how many calls a process may hold.

    It tells only after initialisation, which fixes the bridge's rate; so a forked child asks. To be called before
    the process has an endpoint or threads. Raises ``RuntimeError`` when the child says nothing.
    """
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            endpoint = create_endpoint()
            endpoint.libInit(_config(8_000))
            os.write(write_end, str(_library.pjsua_call_get_max_count()).encode())
        finally:
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as answer:
        told = answer.read()
    os.waitpid(pid, 0)
    if not told.isdigit() or int(told) < 1:
        raise RuntimeError(f"pjsua2 does not say how many calls it holds: {told!r}")
    return int(told)


def create_endpoint() -> pj.Endpoint:
    """Load the library, quietly; its bridge has no rate yet."""
    _library.pj_log_set_level(0)
    endpoint = pj.Endpoint()
    endpoint.libCreate()
    _library.pj_log_set_level(0)
    return endpoint


def open_endpoint(endpoint: pj.Endpoint, rate: int, codecs: Sequence[str], transport: int, address: str) -> int:
    """Start with the bridge at ``rate`` Hz, ``codecs`` first to last and no others; return the bound SIP port."""
    endpoint.libInit(_config(rate))
    config = pj.TransportConfig()
    config.boundAddress = address
    identity = endpoint.transportCreate(transport, config)
    endpoint.audDevManager().setNullDev()
    endpoint.libStart()
    for info in endpoint.codecEnum2():
        name = info.codecId.split("/")[0]
        endpoint.codecSetPriority(info.codecId, 255 - codecs.index(name) if name in codecs else 0)
    return int(endpoint.transportGetInfo(identity).localName.rsplit(":", 1)[1])


def handle_events(endpoint: pj.Endpoint) -> None:
    """Do what is due, without waiting."""
    for _ in range(_MAX_EVENTS):
        if endpoint.libHandleEvents(0) <= 0:
            return


def _config(rate: int) -> pj.EpConfig:
    config = pj.EpConfig()
    ua = config.uaConfig
    ua.threadCnt = 0
    ua.mainThreadOnly = True
    ua.maxCalls = _ASKED_CALLS
    ua.userAgent = "Denwa"
    media = config.medConfig
    media.clockRate = media.sndClockRate = rate
    media.audioFramePtime = media.ptime = _TICK_MS
    media.quality = 6  # where PJSIP must resample after all: its long filter
    media.noVad = True
    media.ecTailLen = 0
    media.sndAutoCloseTime = -1
    config.logConfig.level = config.logConfig.consoleLevel = 0
    return config
