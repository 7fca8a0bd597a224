"""The words of ``denwa eval``: its arguments, handed to agent/evaluation."""

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from agent.check import Answer
from model_runtime.errors import ModelError
from telephony.errors import TelephonyError

_API: Final = "http://127.0.0.1:8080"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command."""
    parser.add_argument(
        "suites", nargs="*", metavar="SUITE", help="YAML files, or names of suites that come with Denwa"
    )
    parser.add_argument("--list", action="store_true", help="only say which suites come with Denwa")
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--checkpoint",
        metavar="PATH",
        help="straight against a model: a folder, hf://owner/name, embedded:front-desk, random:tiny",
    )
    where.add_argument("--to", metavar="SIP-URI", help="by real calls to a running gateway")
    parser.add_argument("--out", type=Path, default=Path("var/eval"), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--dialogues", type=int, metavar="N", help="default: the suite's")
    parser.add_argument("--seed", type=int, metavar="N", help="default: the suite's")
    parser.add_argument("--voices", choices=("train", "held", "far"), help="default: the suite's")
    parser.add_argument("--control", choices=("muted", "noise"), action="append", help="default: the suite's")
    parser.add_argument("--no-controls", action="store_true", help="only the real calls")
    parser.add_argument("--keep-audio", action="store_true", help="keep each call's sound, left the agent")
    parser.add_argument(
        "--recognise", action="store_true", help="also have pocketsphinx listen whether text and sound agree"
    )
    engine = parser.add_argument_group("with --checkpoint")
    engine.add_argument("--slots", type=int, default=8, metavar="N", help="calls at a time; default: %(default)s")
    engine.add_argument("--device", default="cpu", metavar="DEVICE", help="cpu or cuda; default: %(default)s")
    engine.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    engine.add_argument("--threads", type=int, default=1, metavar="N", help="default: %(default)s")
    engine.add_argument("--text-temperature", type=float, metavar="T", help="0: the likeliest; default: the suite's")
    engine.add_argument("--audio-temperature", type=float, metavar="T")
    gateway = parser.add_argument_group("with --to")
    gateway.add_argument("--parallel", type=int, default=1, metavar="N", help="calls at a time; default: %(default)s")
    gateway.add_argument(
        "--api", default=_API, metavar="URL", help="the gateway's, for transcripts; default: %(default)s"
    )
    gateway.add_argument("--api-token", type=Path, metavar="FILE", help="a file that holds api.token, if there is one")


def run(arguments: argparse.Namespace) -> Answer:
    """Hold the calls and report; exit code 1 where a requirement is not met. Raises ``ConfigError``."""
    from agent.evaluation.suite import shipped

    if arguments.list:
        return Answer("\n".join(shipped()), 0)
    for fault in _faults(arguments):
        return Answer(f"denwa eval: {fault}", 2)
    try:
        return _evaluate(arguments)
    except (ModelError, TelephonyError, OSError) as error:
        return Answer(f"denwa eval: {error}", 1)


def _faults(arguments: argparse.Namespace) -> list[str]:
    faults = []
    if not arguments.suites:
        faults.append("name a suite; --list says which come with Denwa")
    if not arguments.checkpoint and not arguments.to:
        faults.append("say what to evaluate: --checkpoint PATH, or --to SIP-URI")
    counts = ("dialogues", "slots", "parallel", "threads")
    faults += [
        f"--{name} must be at least 1" for name in counts if (n := getattr(arguments, name)) is not None and n < 1
    ]
    return faults


def _evaluate(arguments: argparse.Namespace) -> Answer:
    from agent.evaluation.recogniser import Recogniser
    from agent.evaluation.replies import Replies
    from agent.evaluation.report import summary, write
    from agent.evaluation.run import run_suite
    from agent.evaluation.suite import load_suite

    loaded = [load_suite(name) for name in arguments.suites]
    texts, good, model = [], True, _model(arguments) if arguments.checkpoint else None
    for suite, world in loaded:
        changed = suite.model_validate(suite.model_dump() | _changes(arguments, suite.model_dump()))
        replies = Replies(world)
        folder = arguments.out / changed.name
        results = run_suite(
            changed,
            world,
            _line(arguments, model, replies),
            replies,
            how=_how(arguments, changed),
            progress=_progress,
            keep_audio=folder if arguments.keep_audio else None,
            recogniser=Recogniser(world) if arguments.recognise else None,
        )
        texts.append(f"{summary(results)}\n  {write(results, folder)}")
        good = good and results.good
    return Answer("\n\n".join(texts), 0 if good else 1)


def _changes(arguments: argparse.Namespace, suite: dict[str, Any]) -> dict[str, Any]:
    """What the command line says otherwise than the suite."""
    changes = {
        name: getattr(arguments, name)
        for name in ("dialogues", "seed", "voices")
        if getattr(arguments, name) is not None
    }
    if arguments.no_controls or arguments.control:
        changes["controls"] = [] if arguments.no_controls else arguments.control
    sampling = dict(suite["agent"]["sampling"])
    for name in ("text_temperature", "audio_temperature"):
        if getattr(arguments, name) is not None:
            sampling[name] = getattr(arguments, name)
    return changes | {"agent": suite["agent"] | {"sampling": sampling}}


def _model(arguments: argparse.Namespace) -> Any:
    """The checkpoint, loaded as a model worker loads it."""
    from config.schema import ModelSettings
    from model_runtime.worker.models import load_model

    names = ("checkpoint", "slots", "device", "dtype", "threads")
    return load_model(ModelSettings(kind="moshi", **{name: getattr(arguments, name) for name in names}))


def _line(arguments: argparse.Namespace, model: Any, replies: Any) -> Any:
    if model is not None:
        from agent.evaluation.engine_line import EngineLine

        return EngineLine(model, replies)
    from agent.evaluation.gateway import Gateway
    from agent.evaluation.sip_line import SipLine

    token = arguments.api_token.read_text(encoding="utf-8").strip() if arguments.api_token else None
    return SipLine(Gateway.parse(arguments.to, arguments.api, token), replies, arguments.parallel)


def _how(arguments: argparse.Namespace, suite: Any) -> dict[str, Any]:
    at = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    if arguments.to:
        return {"line": "SIP", "gateway": arguments.to, "parallel": arguments.parallel, "at": at}
    model = {"line": "engine", "checkpoint": arguments.checkpoint, "device": arguments.device, "dtype": arguments.dtype}
    sampling = suite.agent.sampling
    drawn = {"text temperature": sampling.text_temperature, "audio temperature": sampling.audio_temperature}
    return {**model, **drawn, "slots": arguments.slots, "at": at}


def _progress(text: str) -> None:
    end = "" if sys.stderr.isatty() else "\n"
    sys.stderr.write(f"\r\033[K{text}" if not end else text + end)
    sys.stderr.flush()
