"""From an INVITE to who answers it, on which line, with which model's slot. Runs on the gateway's event loop."""

from collections.abc import Callable
from datetime import UTC, datetime

from agent.generation import Generation, Persona
from agent.metrics import Metrics
from agent.models import Models
from agent.routing import trunk_of
from agent.served_model import Lease
from model_runtime.errors import NoFreeSlot
from telephony.errors import NoFreeLine
from telephony.sip.edge.admission import Refused
from telephony.sip.invitation import Invitation
from telephony.sip.line.line_worker import Line
from telephony.sip.line.pool import LinePool


class Admitted:
    """What an INVITE holds from its admission on: a line, a model's slot, and who will answer."""

    def __init__(
        self,
        invitation: Invitation,
        persona: Persona,
        generation: Generation,
        line: Line,
        lease: Lease | None,
        forget: Callable[[str], object],
    ) -> None:
        """``lease`` is None where the model is full and the agent has a message for that."""
        self.persona = persona
        self.generation = generation
        self.trunk = trunk_of(generation.settings, invitation.source[0])
        self.lease = lease
        self.invited_at = datetime.now(UTC)
        self.sip_address = line.sip_address
        self._sip_call_id = invitation.sip_call_id
        self._line = line
        self._forget = forget

    def release(self) -> None:
        """Give everything back, unless a call has begun: its session does that at its end. Idempotent."""
        self._line.release()
        if self._line.call is None:
            self._forget(self._sip_call_id)
            self.release_slot()

    def release_slot(self) -> None:
        """Give the model's slot back; idempotent."""
        if self.lease is not None:
            self.lease.release()


class AdmissionDesk:
    """Admits INVITEs, and keeps what they hold until the line worker has their call."""

    def __init__(self, generation: Callable[[], Generation], models: Models, pool: LinePool, metrics: Metrics) -> None:
        """``generation`` tells the configuration of new calls."""
        self._generation = generation
        self._models = models
        self._pool = pool
        self._metrics = metrics
        self._waiting: dict[str, Admitted] = {}  # by SIP Call-ID

    async def admit(self, invitation: Invitation) -> Admitted:
        """Find the agent, a model's slot and a line for an INVITE; raises ``Refused``."""
        generation = self._generation()
        persona, _ = generation.answer(
            called=invitation.called,
            caller=invitation.caller,
            trunk=trunk_of(generation.settings, invitation.source[0]),
            now=datetime.now(UTC),
        )
        if persona is None:
            raise self._refused(404, "Not Found")
        lease = self._lease(persona)
        try:
            line = await self._pool.place(invitation)
        except BaseException as error:
            if lease is not None:
                lease.release()
            if isinstance(error, NoFreeLine):
                raise self._refused(503, "No Line Free") from error
            raise
        admitted = Admitted(invitation, persona, generation, line, lease, lambda it: self._waiting.pop(it, None))
        self._waiting[invitation.sip_call_id] = admitted
        return admitted

    def take(self, sip_call_id: str) -> Admitted | None:
        """What the INVITE of a call that has begun holds; from here on it is the caller's to release."""
        return self._waiting.pop(sip_call_id, None)

    def _lease(self, persona: Persona) -> Lease | None:
        """A slot for the agent; None where there is none and it has a message. Raises ``Refused``."""
        try:
            return self._models[persona.config.model].lease()
        except NoFreeSlot:
            fallback = persona.config.fallback
        if fallback.full == "message":
            return None
        if fallback.full == "transfer" and fallback.transfer_to is not None:
            self._metrics.refused.labels(302).inc()
            raise Refused(302, "Moved Temporarily", contact=fallback.transfer_to)
        raise self._refused(503, "No Model Slot Free")

    def _refused(self, status: int, reason: str) -> Refused:
        self._metrics.refused.labels(status).inc()
        retry_after_s = self._generation().settings.sip.retry_after_s
        return Refused(status, reason, retry_after_s if status == 503 else None)
