"""What an action may do with its call: the seam between actions and the session."""

from typing import Any, Protocol

from telephony.transfer import Transfer


class ControlRefused(Exception):
    """The call cannot do what an action asks; the message says why, in words for an operator and without speech."""


class Controls(Protocol):
    """One call, for its actions. Lives on the gateway's event loop; every method may raise ``ControlRefused``."""

    variables: dict[str, str]
    """The call's variables; actions change them in place."""

    def say(self, text: str) -> None:
        """Let the agent say a text, word for word, after what it was given before."""

    async def said(self) -> None:
        """Wait until everything it was given has been said; bounded."""

    def hang_up(self, reason: str) -> None:
        """End the call; idempotent."""

    async def transfer(self, target: str, within_s: float) -> Transfer:
        """Ask the line's peer to call ``target``, and wait for the outcome."""

    def send_dtmf(self, digits: str) -> None:
        """Press keys of ``0123456789ABCD*#``."""

    async def switch_agent(self, name: str) -> None:
        """Go on with another agent; its actions come through ``Actions.replace``."""

    def describe(self) -> dict[str, Any]:
        """What a web server is told of the call, fit for JSON.

        ``call``, ``direction``, ``caller``, ``called``, ``trunk``, ``agent``, ``language``, ``variables``.
        """
