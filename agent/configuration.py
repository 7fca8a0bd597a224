"""The configuration in use, and how it becomes another one while calls run. Gateway's loop; files are read in a thread.

A new configuration is checked whole before anything of it counts. What the processes were started with cannot change
under them, so a configuration that differs there is refused like a broken one, and the old one stays.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog
from pydantic import BaseModel

from agent.generation import Generation
from config.errors import ConfigError, Finding
from config.load import load
from config.schema import Settings

log = structlog.get_logger(__name__)

_FIXED: Final = ("storage", "api", "observability")
_MAY_CHANGE: Final = ("sip.allow",)
_RESTART: Final = "cannot change while Denwa runs; restart it, or take the change back"


@dataclass(frozen=True, slots=True)
class Reloaded:
    """How a reload went: the generation that counts now, and what was wrong with the new configuration, if anything."""

    generation: int
    findings: tuple[str, ...] = ()

    @property
    def accepted(self) -> bool:
        """Whether it is a new one."""
        return not self.findings


class Configuration:
    """The generations of one configuration file; ``current`` is that of new calls."""

    def __init__(self, file: Path, settings: Settings, on_change: Callable[[Generation], Awaitable[None]]) -> None:
        """Raises ``ConfigError`` for sounds that cannot be used; ``on_change`` gets each later generation."""
        self._file = file
        self._on_change = on_change
        self._reloading = asyncio.Lock()
        self.current = Generation.build(1, settings, file)
        self.refused = 0
        """Reloads that changed nothing because of what was wrong."""

    async def reload(self) -> Reloaded:
        """Read the file again and let new calls have what it says, if all of it is right."""
        async with self._reloading:
            before = self.current
            try:
                after = await asyncio.to_thread(self._read, before)
            except ConfigError as error:
                self.refused += 1
                found = tuple(str(each) for each in error.findings)
                log.error("configuration.refused", generation=before.number, findings=found)
                return Reloaded(before.number, found)
            await self._on_change(after)
            self.current = after
            log.info("configuration.reloaded", generation=after.number)
            return Reloaded(after.number)

    def _read(self, before: Generation) -> Generation:
        settings = load(self._file)
        if findings := [Finding(str(self._file), 1, key, _RESTART) for key in _fixed(before.settings, settings)]:
            raise ConfigError(findings)
        return Generation.build(before.number + 1, settings, self._file)


def _fixed(before: Settings, after: Settings) -> Iterator[str]:
    """The keys that differ and may not."""
    for name in _FIXED:
        yield from _differing(name, getattr(before, name), getattr(after, name))
    yield from _differing("sip", before.sip, after.sip)
    for name in before.models.keys() & after.models.keys():
        yield from _differing(f"models.{name}", before.models[name], after.models[name])


def _differing(key: str, before: object, after: object) -> Iterator[str]:
    if before == after or key in _MAY_CHANGE:
        return
    if isinstance(before, BaseModel) and isinstance(after, BaseModel):
        for name in type(before).model_fields:
            yield from _differing(f"{key}.{name}", getattr(before, name), getattr(after, name))
    else:
        yield key
