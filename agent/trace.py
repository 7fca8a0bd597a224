"""``denwa trace``: where the last frames of a running call spent their time, asked of the gateway that has it."""

from pathlib import Path
from typing import Any

import httpx

from agent.check import Answer
from agent.measures.frame_plot import plot
from agent.measures.frame_report import table
from config.schema import Settings

_WITHIN_S = 5.0


def trace(settings: Settings, call: str, svg: Path | None, worst: int) -> Answer:
    """A table of the frames' stages, and a plot in ``svg`` where that is given. Raises ``OSError`` for that file."""
    url = f"http://{settings.observability.http_listen}"
    token = settings.api.token
    headers = {} if token is None else {"Authorization": f"Bearer {token.get_secret_value()}"}
    try:
        with httpx.Client(base_url=url, headers=headers, timeout=_WITHIN_S, trust_env=False) as client:
            if not call:
                return Answer(_running(client.get("/v1/calls").raise_for_status().json()), 0)
            response = client.get(f"/v1/calls/{call}/frames")
    except httpx.HTTPError as error:
        return Answer(f"denwa trace: no gateway answers at {url} ({error}); is denwa serve running?", 1)
    if response.status_code != 200:
        detail = response.json().get("detail") if "json" in response.headers.get("content-type", "") else ""
        return Answer(f"denwa trace: {detail or f'the gateway answered {response.status_code}'}", 1)
    rows = response.json()["frames"]
    text = table(rows, worst)
    if svg is not None:
        svg.write_text(plot(rows, f"call {call}"))
        text += f"\n\nplotted in {svg}"
    return Answer(text, 0)


def _running(calls: list[dict[str, Any]]) -> str:
    if not calls:
        return "no call is running"
    return "\n".join(f"{each['id']}  {each['now_s']:.0f} s  {each['caller']} -> {each['called']}" for each in calls)
