"""Command line: `python -m examples.digits [--data espeak | --data fsdd PATH] ...`."""

import argparse
import sys
from pathlib import Path

from . import plot, train
from .result import write_curve

DEFAULTS = train.Config()


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.digits",
        description="Trains a small RNN-T on strings of spoken digits.",
    )
    parser.add_argument(
        "--data",
        nargs="+",
        default=["espeak"],
        metavar=("espeak | fsdd", "PATH"),
        help="espeak (default): synthesised strings; fsdd PATH: the Free Spoken Digit Dataset, a "
        "directory or its zip",
    )
    parser.add_argument("--steps", type=int, default=DEFAULTS.steps, help="default %(default)s")
    parser.add_argument("--batch-size", type=int, default=DEFAULTS.batch_size)
    parser.add_argument("--learning-rate", type=float, default=DEFAULTS.learning_rate)
    parser.add_argument("--seed", type=int, default=DEFAULTS.seed)
    parser.add_argument("--seconds", type=float, help="stop after this time, done or not")
    parser.add_argument(
        "--checkpoint", type=Path, help="directory of checkpoints; a second run goes on from there"
    )
    parser.add_argument("--checkpoint-every", type=int, default=DEFAULTS.checkpoint_every)
    parser.add_argument("--evaluate-every", type=int, default=DEFAULTS.evaluate_every)
    parser.add_argument(
        "--plot",
        type=Path,
        default=Path("digits.png"),
        help="PNG of log-mel and alignment posteriors, default %(default)s",
    )
    parser.add_argument("--no-plot", dest="plot", action="store_const", const=None)
    parser.add_argument("--curve", type=Path, help="CSV of times, losses and digit error rates")
    parser.add_argument("--cache", type=Path, default=DEFAULTS.cache, help="default %(default)s")
    parser.add_argument(
        "--implementation", choices=("native", "reference"), help="of the loss; default: the best"
    )
    options = parser.parse_args(arguments)
    names_data = options.data == ["espeak"] or (
        options.data[0] == "fsdd" and len(options.data) == 2
    )
    if not names_data:
        parser.error("--data takes either espeak, or fsdd and a path")
    return options


def main() -> None:
    """Trains, prints the error rate, and writes what was asked for."""
    options = parse_arguments()
    config = train.Config(
        data=options.data[0],
        path=Path(options.data[1]) if len(options.data) == 2 else None,
        cache=options.cache,
        steps=options.steps,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        seed=options.seed,
        evaluate_every=options.evaluate_every,
        checkpoint=options.checkpoint,
        checkpoint_every=options.checkpoint_every,
        seconds=options.seconds,
        implementation=options.implementation,
    )
    try:
        if options.plot:
            plot.require_matplotlib()
        result = train.run(config)
    except (FileNotFoundError, ModuleNotFoundError, ValueError) as error:
        sys.exit(f"error: {error}")
    last = result.curve[-1]
    if result.resumed_from:
        print(f"went on from step {result.resumed_from}")
    print(
        f"digit error rate {100 * result.digit_error_rate:.2f} % after {last.step} steps, "
        f"{last.seconds:.0f} s ({last.user_cpu_seconds:.0f} s of user CPU time)"
    )
    if options.curve:
        write_curve(options.curve, result.curve)
    if options.plot:
        plot.save_picture(
            options.plot,
            result.shown_features,
            result.shown_digits,
            result.posteriors,
            config.model.stack,
        )


if __name__ == "__main__":
    main()
