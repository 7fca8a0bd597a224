"""/v1/calls: what runs now, and what may be done with it."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final

from fastapi import APIRouter, HTTPException, Path
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from agent.actions.action_runner import ActionRefused, UnknownAction
from agent.actions.controls import ControlRefused
from agent.session import Session
from config.agent_schema import TransferTarget
from telephony.dtmf import check_digits

CallId = Annotated[str, Path(pattern=r"^[0-9a-f]{4,32}$", description="The call's id")]

_DONE: Final[dict[str, Any]] = {"done": True}


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Say(_Body):
    """A text for the agent's mouth."""

    text: str = Field(min_length=1, max_length=4_000)


class HangUp(_Body):
    """Why the call is ended."""

    reason: str = Field("ended through the API", max_length=200)


class TransferTo(_Body):
    """Whom the caller is handed over to."""

    to: TransferTarget
    within_s: float = Field(30.0, ge=1, le=300)


class Keys(_Body):
    """Keys to press at the caller's end."""

    digits: Annotated[str, AfterValidator(check_digits)]


class SwitchTo(_Body):
    """Who goes on with the call."""

    agent: str = Field(max_length=64)


def call_routes(sessions: Mapping[str, Session], describe: Callable[[], list[dict[str, Any]]]) -> APIRouter:
    """The routes over running calls, ``sessions`` by call id."""
    router = APIRouter(prefix="/v1/calls", tags=["calls"])

    def session(call: str) -> Session:
        if (found := sessions.get(call)) is None:
            raise HTTPException(404, f"no call {call} is running; GET /v1/calls tells which are")
        return found

    @router.get("", summary="The calls that run now")
    async def calls() -> list[dict[str, Any]]:
        return describe()

    @router.get("/{call}", summary="One running call")
    async def one(call: CallId) -> dict[str, Any]:
        return session(call).kept.status()

    @router.get("/{call}/frames", summary="Where each of the last frames spent its time")
    async def frames(call: CallId) -> dict[str, Any]:
        return {"call": call, "frames": session(call).kept.trace.rows()}

    @router.post("/{call}/say", summary="Let the agent say a text, word for word", status_code=202)
    async def say(call: CallId, body: Say) -> dict[str, Any]:
        session(call).say(body.text)
        return _DONE

    @router.post("/{call}/hangup", summary="End the call once the agent has finished speaking", status_code=202)
    async def hang_up(call: CallId, body: HangUp) -> dict[str, Any]:
        session(call).hang_up(body.reason)
        return _DONE

    @router.post("/{call}/transfer", summary="Hand the caller over, and tell how that went")
    async def transfer(call: CallId, body: TransferTo) -> dict[str, Any]:
        try:
            outcome = await session(call).transfer(body.to, body.within_s)
        except ControlRefused as refusal:
            raise HTTPException(422, str(refusal)) from None
        return {"accepted": outcome.accepted, "status": outcome.status, "reason": outcome.reason}

    @router.post("/{call}/dtmf", summary="Press keys at the caller's end", status_code=202)
    async def dtmf(call: CallId, body: Keys) -> dict[str, Any]:
        session(call).send_dtmf(body.digits)
        return _DONE

    @router.post("/{call}/agent", summary="Let another agent go on with the call")
    async def switch(call: CallId, body: SwitchTo) -> dict[str, Any]:
        try:
            await session(call).switch_agent(body.agent)
        except ControlRefused as refusal:
            raise HTTPException(422, str(refusal)) from None
        return _DONE

    @router.post("/{call}/actions/{name}", summary="Run one of the agent's actions, and tell its outcome")
    async def act(call: CallId, name: str) -> dict[str, Any]:
        found = session(call)
        try:
            return (await found.actions.run(name, found.kept.now_s)).as_dict()
        except UnknownAction as refusal:
            raise HTTPException(404, str(refusal)) from None
        except ActionRefused as refusal:
            raise HTTPException(409, str(refusal)) from None

    return router
