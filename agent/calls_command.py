"""The words of ``denwa calls``: its arguments, handed to agent/calls.py."""

import argparse
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agent import calls
from agent.check import Answer
from agent.store.queries import CallFilter
from config.load import default_path, load
from config.schema import Settings

_RESULTS = ("completed", "cancelled", "rejected", "failed")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verbs list, show, export and purge."""
    verbs = parser.add_subparsers(required=True, dest="verb", metavar="VERB")
    listing = verbs.add_parser("list", help="the calls that have ended, the latest first")
    showing = verbs.add_parser("show", help="everything that is kept of one call")
    exporting = verbs.add_parser("export", help="records as JSON lines or CSV; recordings and transcripts with --files")
    purging = verbs.add_parser("purge", help="delete what is due, or everything of one caller, or all that is older")
    for each in (listing, showing, exporting, purging):
        each.add_argument("--config", type=Path, default=default_path(), metavar="FILE", help="default: %(default)s")
    for each in (listing, exporting):
        each.add_argument("--since", metavar="WHEN", help="30m, 12h, 7d, 2026-01-31 or 2026-01-31T08:00")
        each.add_argument("--caller", metavar="NUMBER", help="of this caller only")
        each.add_argument("--agent", metavar="NAME", help="answered by this agent only")
        each.add_argument("--result", choices=_RESULTS, help="ended so only")
    listing.add_argument("--limit", type=int, default=100, metavar="N", help="at most so many; default: %(default)s")
    listing.add_argument("--json", action="store_true", help="one JSON object per line")
    showing.add_argument("call", metavar="CALL", help="its id, or the beginning of it")
    exporting.add_argument("--form", choices=("jsonl", "csv"), default="jsonl", help="default: %(default)s")
    exporting.add_argument("--files", type=Path, metavar="DIR", help="a new folder for recordings and transcripts")
    purging.add_argument("--expired", action="store_true", help="what its agent's retention says is due")
    purging.add_argument("--caller", metavar="NUMBER", help="everything of this caller")
    purging.add_argument("--older-than", type=float, metavar="DAYS", help="every call that ended before")
    purging.add_argument("--dry-run", action="store_true", help="only say what would be deleted")


def run(arguments: argparse.Namespace) -> Answer:
    """Do what the verb says. Raises ``ConfigError``."""
    settings, now = load(arguments.config), datetime.now(UTC)
    storage = settings.storage
    match arguments.verb:
        case "show":
            return calls.show(storage, arguments.call)
        case "purge":
            return _purge(settings, arguments, now)
    try:
        since = calls.parse_since(arguments.since, now) if arguments.since else None
    except ValueError as error:
        return Answer(f"denwa calls {arguments.verb}: {error}", 2)
    which: dict[str, Any] = {"since": since, "caller": arguments.caller}
    which |= {"agent": arguments.agent, "result": arguments.result}
    if arguments.verb == "list":
        if arguments.limit < 1:
            return Answer("denwa calls list: --limit must be at least 1", 2)
        return calls.list_calls(storage, CallFilter(**which, limit=arguments.limit), as_json=arguments.json)
    return calls.export(storage, CallFilter(**which, limit=None), form=arguments.form, files=arguments.files)


def _purge(settings: Settings, arguments: argparse.Namespace, now: datetime) -> Answer:
    """By the gateway that runs, or where none does, here."""
    which = (bool(arguments.caller), arguments.older_than is not None, arguments.expired)
    if which.count(True) == 1 and not arguments.dry_run:
        told = calls.purge_by_gateway(settings, arguments.caller, arguments.older_than)
        if told is not None:
            return told
    return calls.purge(
        settings.storage,
        now,
        caller=arguments.caller,
        older_than_days=arguments.older_than,
        expired=arguments.expired,
        dry_run=arguments.dry_run,
    )
