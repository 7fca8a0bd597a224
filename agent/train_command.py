"""The words of ``denwa train``: its arguments, handed to model_runtime/training."""

import argparse
from collections.abc import Callable
from pathlib import Path

from agent.check import Answer
from model_runtime.errors import ModelError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verbs run, export, plot, synthesize, encode, store and embedded."""
    verbs = parser.add_subparsers(required=True, dest="verb", metavar="VERB")

    def verb(name: str, run: Callable[[argparse.Namespace], str], text: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=text, description=text)
        added.set_defaults(train=run)
        return added

    running = verb("run", _run, "train a stage: a YAML file, or the name of one that comes with Denwa")
    running.add_argument("stage", metavar="STAGE")
    running.add_argument("folder", type=Path, metavar="RUN", help="the folder that keeps the run")
    running.add_argument("--resume", action="store_true", help="go on from the run's last snapshot")
    running.add_argument("--device", default="cpu", metavar="DEVICE", help="cpu or cuda; default: %(default)s")

    exporting = verb("export", _export, "write a run's last snapshot as a checkpoint that the runtime loads")
    exporting.add_argument("stage", metavar="STAGE")
    exporting.add_argument("folder", type=Path, metavar="RUN")
    exporting.add_argument("out", type=Path, metavar="OUT")
    exporting.add_argument("--merge", action="store_true", help="adapters merged into their model")

    plotting = verb("plot", _plot, "draw a run's losses")
    plotting.add_argument("folder", type=Path, metavar="RUN")

    speaking = verb("synthesize", _synthesize, "make dialogues of a world, spoken by espeak-ng, as a data set")
    encoding = verb("encode", _encode, "encode a data set of recordings with a codec")
    storing = verb("store", _store, "encode the utterances of a world, to compose dialogues of while training")
    speaking.add_argument("out", type=Path, metavar="OUT")
    speaking.add_argument("--hours", type=float, required=True, metavar="N")
    encoding.add_argument("dataset", type=Path, metavar="DATASET", help="a folder with data.jsonl")
    encoding.add_argument("out", type=Path, metavar="OUT")
    encoding.add_argument(
        "--versions", type=int, default=1, metavar="N", help="the later ones have the caller's audio changed"
    )
    storing.add_argument("out", type=Path, metavar="OUT")
    storing.add_argument("--callers", type=int, required=True, metavar="N")
    embedding = verb("embedded", _embedded, "train a small agent from nothing: codec, language model, checkpoint")
    embedding.add_argument("out", type=Path, metavar="OUT", help="the folder that keeps it all; what is there stays")
    budget = embedding.add_mutually_exclusive_group()
    budget.add_argument("--hours", type=float, metavar="N", help="about what one CPU core does in so long; default: 3")
    budget.add_argument("--minutes", type=float, metavar="N")
    embedding.add_argument("--codec", type=Path, metavar="PATH", help="a codec that is trained already")
    embedding.add_argument("--device", default="cpu", metavar="DEVICE", help="cpu or cuda; default: %(default)s")
    for each in (encoding, storing):
        each.add_argument("--codec", required=True, metavar="PATH", help="a checkpoint with a codec")
        each.add_argument("--device", default="cpu", metavar="DEVICE")
    for each in (speaking, storing, embedding):
        each.add_argument("--world", type=Path, metavar="YAML", help="default: the front desk that comes with Denwa")
        each.add_argument("--processes", type=int, default=1, metavar="N", help="default: %(default)s")
    for each in (speaking, storing):
        each.add_argument("--voices", choices=("train", "held", "far"), default="train", help="default: %(default)s")
        each.add_argument(
            "--wording", choices=("seen", "combination", "unseen"), default="seen", help="default: %(default)s"
        )
    for each in (speaking, encoding, storing, embedding):
        each.add_argument("--seed", type=int, default=0, metavar="N", help="default: %(default)s")


def run(arguments: argparse.Namespace) -> Answer:
    """Do what the verb says; what is wrong with the arguments or the data is told in one line."""
    try:
        return Answer(arguments.train(arguments), 0)
    except (ModelError, OSError, ValueError, RuntimeError) as error:
        return Answer(f"denwa train {arguments.verb}: {error}", 1)


def _run(arguments: argparse.Namespace) -> str:
    from model_runtime.training.train_command import train

    export = train(Path(arguments.stage), arguments.folder, resume=arguments.resume, device=arguments.device)
    return f"trained; the checkpoint is {export}"


def _export(arguments: argparse.Namespace) -> str:
    from model_runtime.training.train_command import export

    return f"wrote {export(Path(arguments.stage), arguments.folder, arguments.out, merge=arguments.merge)}"


def _plot(arguments: argparse.Namespace) -> str:
    from model_runtime.training.log import plot

    return f"drew {plot(arguments.folder)}"


def _synthesize(arguments: argparse.Namespace) -> str:
    from model_runtime.training.synthetic.dataset import synthesize
    from model_runtime.training.synthetic.script import FRONT_DESK

    made = synthesize(
        arguments.world or FRONT_DESK,
        arguments.out,
        hours=arguments.hours,
        seed=arguments.seed,
        split=arguments.voices,
        wording=arguments.wording,
        processes=arguments.processes,
    )
    hours = sum(each.duration for each in made) / 3600
    return f"made {len(made)} dialogues, {hours:.2f} hours, in {arguments.out}"


def _encode(arguments: argparse.Namespace) -> str:
    from model_runtime.checkpoint.loading import load_mimi
    from model_runtime.training.encode import EncodeSettings, encode_dataset

    mimi = load_mimi(arguments.codec, arguments.device)
    settings = EncodeSettings(versions=arguments.versions, seed=arguments.seed)
    encode_dataset(arguments.dataset, mimi, arguments.out, settings)
    return f"encoded {arguments.dataset} into {arguments.out}"


def _store(arguments: argparse.Namespace) -> str:
    from model_runtime.checkpoint.loading import load_mimi
    from model_runtime.training.synthetic.script import FRONT_DESK, World
    from model_runtime.training.synthetic.store import build_store

    build_store(
        World.load(arguments.world or FRONT_DESK),
        load_mimi(arguments.codec, arguments.device),
        arguments.out,
        callers=arguments.callers,
        seed=arguments.seed,
        split=arguments.voices,
        wording=arguments.wording,
        processes=arguments.processes,
    )
    return f"encoded {arguments.callers} callers into {arguments.out}"


def _embedded(arguments: argparse.Namespace) -> str:
    from model_runtime.training.embedded import Recipe, train_embedded
    from model_runtime.training.synthetic.script import FRONT_DESK

    minutes = arguments.minutes if arguments.minutes is not None else 60 * (arguments.hours or 3.0)
    checkpoint = train_embedded(
        arguments.out,
        Recipe.within(minutes, codec=arguments.codec is None, seed=arguments.seed),
        codec=arguments.codec,
        world=arguments.world or FRONT_DESK,
        processes=arguments.processes,
        device=arguments.device,
    )
    return f"trained; the checkpoint is {checkpoint}"
