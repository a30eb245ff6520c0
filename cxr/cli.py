"""`cxr`: the one command. It names every subcommand, and imports one only when it is called."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from cxr.console import EXIT_USAGE, run_command
from cxr.options import nearest

COMMANDS = {
    "fetch": ("phantoms.fetch", "download a public data set"),
    "phantom": ("phantoms.phantom", "draw a synthetic chest X-ray set to try things on"),
    "preprocess": ("beam_jobs.preprocess", "turn images into a verified TFRecord data set"),
    "layouts": ("beam_jobs.layouts", "list the public data sets that preprocess recognises"),
    "inspect": ("tfrecords.inspect", "show what is in a data set"),
    "verify": ("tfrecords.verify", "check every record of a data set"),
    "bench": ("tfrecords.bench", "measure how fast a data set streams, and what limits it"),
    "train": ("trainer.train", "train a model on a data set"),
    "evaluate": ("trainer.evaluate", "measure a run on a split, under shifts too, and write a report"),
    "compare": ("trainer.compare", "put runs side by side"),
    "predict": ("trainer.predict", "predict the labels of image files"),
    "export": ("trainer.export", "write a run as a TensorFlow SavedModel"),
    "tune": ("tuner.tune", "search for the best model and recipe, in many processes"),
    "tune-report": ("tuner.tune_report", "rank what a search found, and say what mattered"),
    "board": ("trainer.board", "TensorBoard over all data sets, runs and searches below a folder"),
}
"""Subcommand: the module whose `main(argv)` it calls, and what it does."""


def usage() -> str:
    """What `cxr --help` prints."""
    lines = [f"  {name:14}{text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: cxr COMMAND [OPTIONS]",
            "",
            "Chest X-rays at full resolution, from image files to training.",
            "",
            "commands:",
            *lines,
            "",
            "cxr COMMAND --help explains one.",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Calls a subcommand; returns its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(version("cxr-stream"))
        return 0
    if arguments[0] not in COMMANDS:
        hint = nearest(arguments[0], COMMANDS) or f"; expected one of {', '.join(COMMANDS)}"
        print(f"error: there is no command {arguments[0]!r}{hint}", file=sys.stderr)
        return EXIT_USAGE
    name = COMMANDS[arguments[0]][0]
    return run_command(lambda given: importlib.import_module(name).main(given), arguments[1:])
