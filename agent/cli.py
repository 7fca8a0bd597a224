"""The ``denwa`` command. Exit codes: 0 done, 1 failed, 2 bad usage or configuration."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from config.errors import ConfigError
from config.load import default_path, load
from config.redaction import Redactor

DONE: Final = 0
FAILED: Final = 1
BAD_USAGE: Final = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return BAD_USAGE
    except OSError as error:
        print(f"denwa: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return FAILED


def _serve(arguments: argparse.Namespace) -> int:
    settings = load(arguments.config)
    import uvloop

    from agent.gateway import Gateway
    from config.logs import configure

    configure(
        settings.observability.log_level,
        redactor=Redactor(settings.privacy.redact, settings.privacy.patterns),
    )

    async def serve() -> None:
        await Gateway(settings, arguments.config).run()

    uvloop.run(serve())
    return DONE


def _worker(arguments: argparse.Namespace) -> int:
    from config.logs import configure
    from model_runtime.errors import ModelError
    from model_runtime.worker.serve import serve_worker

    if arguments.settings_fd is not None:
        from agent.local_worker import handed_over

        model, log_level = handed_over(arguments.settings_fd)
    else:
        settings = load(arguments.config)
        if arguments.model not in settings.models:
            known = ", ".join(sorted(settings.models))
            print(f"{arguments.config}: models: there is no {arguments.model!r}; there are: {known}", file=sys.stderr)
            return BAD_USAGE
        model, log_level = settings.models[arguments.model], settings.observability.log_level
    configure(log_level)
    try:
        serve_worker(arguments.model, model, listen=arguments.listen, fd=arguments.fd, dump=arguments.dump)
    except ModelError as error:
        print(f"denwa worker: {error}", file=sys.stderr)
        return FAILED
    return DONE


def _check(arguments: argparse.Namespace) -> int:
    from agent import check

    if arguments.schema:
        text, code = check.schema(arguments.schema)
    elif arguments.explain:
        text, code = check.explain(arguments.file, arguments.explain, caller=arguments.caller, source=arguments.source)
    else:
        text, code = check.check(arguments.file)
    print(text, file=sys.stderr if code else sys.stdout)
    return code


def _calls(arguments: argparse.Namespace) -> int:
    from agent import calls_command

    text, code = calls_command.run(arguments)
    print(text, file=sys.stderr if code else sys.stdout)
    return code


def _train(arguments: argparse.Namespace) -> int:
    from agent import train_command

    text, code = train_command.run(arguments)
    print(text, file=sys.stderr if code else sys.stdout)
    return code


def _eval(arguments: argparse.Namespace) -> int:
    from agent import eval_command

    text, code = eval_command.run(arguments)
    print(text, file=sys.stderr if code == BAD_USAGE else sys.stdout)
    return code


def _trace(arguments: argparse.Namespace) -> int:
    from agent.trace import trace

    text, code = trace(load(arguments.config), arguments.call, arguments.plot, arguments.worst)
    print(text, file=sys.stderr if code else sys.stdout)
    return code


def _call(arguments: argparse.Namespace) -> int:
    from telephony.errors import TelephonyError
    from telephony.sip.line.caller import place_call

    try:
        report = place_call(
            arguments.uri,
            play=arguments.play,
            record=arguments.record,
            seconds=arguments.seconds,
            codec=arguments.codec,
        )
    except TelephonyError as error:
        print(f"denwa call: {error}", file=sys.stderr)
        return FAILED
    print(report)
    return DONE


def _model(arguments: argparse.Namespace) -> int:
    from model_runtime.errors import ModelError

    int8 = {"int8_weights": arguments.int8_weights, "int8_cache": arguments.int8_cache}
    try:
        if arguments.verb == "info":
            from model_runtime.checkpoint.report import info

            print(info(arguments.path, arguments.device, arguments.dtype, **int8))
            return DONE
        if arguments.verb in ("bench", "profile"):
            from model_runtime.bench import bench, profile_report

            report = bench if arguments.verb == "bench" else profile_report
            print(report(arguments.path, arguments.device, arguments.dtype, arguments.slots, arguments.steps, **int8))
            return DONE
        from model_runtime.checkpoint.verify import verify

        verdict = verify(arguments.path, arguments.device, arguments.dtype, arguments.slots, **int8)
    except ModelError as error:
        print(f"denwa model {arguments.verb}: {error}", file=sys.stderr)
        return FAILED
    print(verdict)
    return DONE if verdict.good else FAILED


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is not HOST:PORT, e.g. 127.0.0.1:9000")
    return host.strip("[]"), int(port)


def _count(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 1024:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 1024")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="denwa", description="Answers phone lines with a full-duplex speech model.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: object, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        added.set_defaults(run=run)
        return added

    serve = command("serve", _serve, "serve SIP until SIGTERM")
    worker = command("worker", _worker, "serve one model of the configuration over WebSocket")
    for each in (serve, worker):
        each.add_argument("--config", type=Path, default=default_path(), metavar="FILE", help="default: %(default)s")
    worker.add_argument("--model", required=True, metavar="NAME", help="a name under models: in the configuration")
    where = worker.add_mutually_exclusive_group()
    where.add_argument("--listen", type=_address, metavar="HOST:PORT", help="default: 127.0.0.1:8998")
    where.add_argument("--fd", type=int, metavar="N", help="an inherited listening socket")
    worker.add_argument("--settings-fd", type=int, help=argparse.SUPPRESS)  # from the gateway
    worker.add_argument("--dump", type=Path, metavar="DIR", help="write every session's frames there, to replay them")

    check = command("check", _check, "check a configuration; explain which agent answers; write the JSON Schema")
    check.add_argument(
        "file", type=Path, nargs="?", default=default_path(), metavar="FILE", help="default: %(default)s"
    )
    check.add_argument("--explain", metavar="SIP-URI", help="say which agent would answer this called number, and why")
    check.add_argument("--from", dest="caller", metavar="SIP-URI", help="with --explain: the caller")
    check.add_argument("--source", metavar="ADDRESS", help="with --explain: the address the call comes from")
    check.add_argument(
        "--schema", nargs="?", const="denwa", choices=("denwa", "agent"), help="print the JSON Schema of such a file"
    )

    model = command("model", _model, "look into a checkpoint: its shape and needs; whether it works and keeps up")
    verbs = model.add_subparsers(required=True, dest="verb", metavar="VERB")
    info = verbs.add_parser("info", help="shapes, parameters, memory, and the slots that fit; reads no weights")
    verify = verbs.add_parser("verify", help="load it and run 50 frames; exit code 1 where it is not fit for calls")
    bench = verbs.add_parser("bench", help="time each part of a step per number of slots: what fits this machine")
    profile = verbs.add_parser("profile", help="where the time of a step goes, and of an answer line by line")
    for each in (info, verify, bench, profile):
        each.add_argument("path", metavar="PATH", help="a folder, hf://owner/name, embedded:front-desk or random:tiny")
        each.add_argument("--device", metavar="DEVICE", help="cpu, cuda, cuda:1 ...; default: cuda where there is one")
        each.add_argument(
            "--dtype", choices=("float32", "bfloat16", "float16"), help="default: bfloat16, on a CPU float32"
        )
        each.add_argument("--int8-weights", action="store_true", help="keep the weights in int8")
        each.add_argument("--int8-cache", action="store_true", help="keep keys and values in int8")
    for each in (bench, profile):
        each.add_argument("--steps", type=int, default=100, metavar="N", help="steps per figure; default: %(default)s")
    bench.add_argument(
        "--slots", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64], metavar="N", help="default: %(default)s"
    )
    profile.add_argument("--slots", type=int, default=1, metavar="N", help="default: %(default)s")
    verify.add_argument(
        "--slots", type=_count, default=1, metavar="N", help="conversations at once; default: %(default)s"
    )

    from agent import calls_command, eval_command, train_command

    calls_command.add_arguments(command("calls", _calls, "the records of calls: list, show, export, purge"))
    train_command.add_arguments(command("train", _train, "train models: run a stage, make and encode its data"))
    eval_command.add_arguments(command("eval", _eval, "hold simulated calls with a model or a gateway, and score them"))
    trace = command("trace", _trace, "where the last frames of a running call spent their time")
    trace.add_argument("call", nargs="?", default="", metavar="CALL", help="its id; without one the running calls")
    trace.add_argument("--plot", type=Path, metavar="FILE", help="also draw it, as SVG")
    trace.add_argument("--worst", type=int, default=10, metavar="N", help="slowest frames shown; default: %(default)s")
    trace.add_argument("--config", type=Path, default=default_path(), metavar="FILE", help="default: %(default)s")

    call = command("call", _call, "call a number and report on the line")
    call.add_argument("uri", metavar="SIP-URI")
    call.add_argument("--play", type=Path, metavar="WAV", help="what to say; default: silence")
    call.add_argument("--record", type=Path, metavar="WAV", help="where to write what is heard")
    call.add_argument("--seconds", type=float, default=10.0, metavar="N", help="how long; default: %(default)s")
    call.add_argument("--codec", choices=("PCMU", "PCMA", "G722"), help="the only codec to offer; default: all")
    return parser


if __name__ == "__main__":
    sys.exit(main())
