"""Command line: `python -m examples.speech train | transcribe | align | report`."""

import argparse
import dataclasses
import sys
import typing
from pathlib import Path
from typing import Any

from .settings import PRESETS, ExplainedError, Settings, preset


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.speech",
        description="A speech recogniser: training, text with times, a report.",
    )
    commands = parser.add_subparsers(dest="command", required=True)

    train = commands.add_parser("train", help="train a model, or go on with a run")
    train.add_argument("--preset", choices=PRESETS, default="small")
    train.add_argument("--run", type=Path, default=Path("run"), help="its folder: %(default)s")
    train.add_argument(
        "--data",
        nargs="+",
        default=["espeak"],
        metavar=("espeak | librispeech | fsdd", "PATH"),
        help="espeak (default) makes its own; the others lie at PATH",
    )
    _add_settings(train.add_argument_group("settings", "settings.py says what each is for"))
    processes = train.add_argument_group("several processes", "one command for each")
    processes.add_argument("--processes", type=int, default=1)
    processes.add_argument("--process", type=int, default=0, help="the number of this one")
    processes.add_argument("--coordinator", default="localhost:12321", help="process 0's address")

    transcribe = commands.add_parser("transcribe", help="text with the times of its words")
    transcribe.add_argument("checkpoint", type=Path, help="a run's folder")
    transcribe.add_argument("files", type=Path, nargs="+", metavar="FILE")
    transcribe.add_argument("--stream", action="store_true", help="in chunks, as from a microphone")
    transcribe.add_argument("--subtitles", action="store_true", help="WebVTT")
    transcribe.add_argument("--beam", type=int, default=1, help="hypotheses kept: %(default)s")

    align = commands.add_parser("align", help="times of the words of a known text")
    align.add_argument("checkpoint", type=Path, help="a run's folder")
    align.add_argument("file", type=Path)
    align.add_argument("text")

    report = commands.add_parser("report", help="a run as one HTML page")
    report.add_argument("run", type=Path, help="its folder")
    report.add_argument("--out", type=Path, default=Path("report.html"))
    return parser.parse_args(arguments)


def _add_settings(group: argparse._ArgumentGroup) -> None:
    """An option for each field of the settings, which replaces the preset's value."""
    types = typing.get_type_hints(Settings)
    for field in dataclasses.fields(Settings):
        if field.name in ("data", "path"):
            continue
        kind, options = types[field.name], {}
        if typing.get_origin(kind) is tuple:
            kind, options = typing.get_args(kind)[0], {"nargs": "+"}
        elif typing.get_origin(kind) is typing.Literal:
            choices = typing.get_args(kind)
            kind, options = type(choices[0]), {"choices": choices}
        name = "--" + field.name.replace("_", "-")
        group.add_argument(name, type=kind, default=argparse.SUPPRESS, **options)


def settings_of(options: argparse.Namespace) -> Settings:
    """The preset's settings with the command line's changes."""
    names = {field.name for field in dataclasses.fields(Settings)} - {"data"}
    changes: dict[str, Any] = {k: v for k, v in vars(options).items() if k in names}
    changes = {k: tuple(v) if isinstance(v, list) else v for k, v in changes.items()}
    name, *path = options.data
    if len(path) != (name != "espeak"):
        raise ExplainedError("--data takes espeak alone, or another corpus and its path.")
    return preset(options.preset, data=name, **({"path": path[0]} if path else {}), **changes)


def train(options: argparse.Namespace) -> None:
    """Trains and writes the report into the run's folder."""
    import jax

    settings = settings_of(options)
    if options.processes > 1:
        jax.distributed.initialize(options.coordinator, options.processes, options.process)
    from .report import report
    from .train import run

    run(settings, options.run)
    if jax.process_index() == 0:
        report(options.run, options.run / "report.html")
        print(f"report: {options.run / 'report.html'}")


def main() -> None:
    """Runs a command."""
    options = parse_arguments()
    try:
        if options.command == "train":
            train(options)
        elif options.command == "transcribe":
            from .transcribe import transcribe

            transcribe(
                options.checkpoint,
                options.files,
                stream=options.stream,
                subtitles=options.subtitles,
                beam=options.beam,
            )
        elif options.command == "align":
            from .align import align

            align(options.checkpoint, options.file, options.text)
        else:
            from .report import report

            report(options.run, options.out)
            print(f"report: {options.out}")
    except ModuleNotFoundError as error:
        sys.exit(f'error: {error}; pip install -e ".[speech]" installs all that this example needs')
    except (OSError, ExplainedError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped")


if __name__ == "__main__":
    main()
