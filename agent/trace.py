"""``denwa trace``: where the last frames of a running call spent their time, asked of the gateway that has it."""

from pathlib import Path
from typing import Any

from agent.check import Answer
from agent.measures.frame_plot import plot
from agent.measures.frame_report import table
from agent.remote import NoGateway, ask, detail
from config.schema import Settings


def trace(settings: Settings, call: str, svg: Path | None, worst: int) -> Answer:
    """A table of the frames' stages, and a plot in ``svg`` where that is given. Raises ``OSError`` for that file."""
    try:
        response = ask(settings, "GET", f"/v1/calls/{call}/frames" if call else "/v1/calls")
    except NoGateway as error:
        return Answer(f"denwa trace: {error}", 1)
    if response.status_code != 200:
        return Answer(f"denwa trace: {detail(response)}", 1)
    if not call:
        return Answer(_running(response.json()), 0)
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
