"""`cxr train`: trains a model on a data set. The training itself is in `trainer.training.loop`."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from cxr.command import Command, Given
from cxr.console import EXIT_INTERRUPTED, EXIT_OK, run_command
from cxr.errors import InputError, MissingExtraError, UsageError
from cxr.kinds import Choice, Flag, Real, Text, Whole, directory, file_path
from cxr.machine import load_tensorflow_quietly
from cxr.options import Options, option, options
from tfrecords.streaming.cache import CACHE_MODES
from trainer.presets import PRESETS, preset_help
from trainer.train_config import TrainConfig

_WHERE = "what and where"
_DESCRIPTION = """\
Trains a classifier on the train split of a data set, chooses the best epoch on the val split, and keeps all of it
in the directory of the run. Stopped or killed, `cxr train --run RUN --resume` resumes in the middle of the epoch."""
_EPILOG = """\
presets, each a whole recipe; options given beside one replace its own:
{presets}

examples:
  cxr train --data data/cxr --run runs/robust --preset robust
  cxr train --data data/cxr --run runs/cnn --model cnn-separable --image-size 224 --equalize --augment strong
  cxr train --data data/cxr --run runs/vgg --preset vgg16-frozen --weights vgg16_notop.weights.h5
  cxr train --run runs/robust --resume
  cxr board runs
"""


@options
class TrainOptions(Options):
    """What and where `cxr train` trains; how is `trainer.train_config.TrainConfig`."""

    run: str = option(directory("RUN"), "directory of the run", group=_WHERE)
    data: str | None = option(
        directory(), "data set of `cxr preprocess`", default=None, unset="with --resume, the run's own", group=_WHERE
    )
    preset: str | None = option(Choice(tuple(PRESETS), "NAME"), "a recipe, see below", default=None, group=_WHERE)
    config: str | None = option(
        file_path(), "JSON file of options as a run's run.json has them", default=None, group=_WHERE
    )
    resume: bool = option(Flag(), "resume a run that was stopped", default=False, group=_WHERE)
    overwrite: bool = option(Flag(), "replace the run that is there", default=False, group=_WHERE)
    positive: str | None = option(
        Text(metavar="LABEL"), "of two labels, the finding", default=None, unset="the one not named like 'normal'",
        group=_WHERE,
    )  # fmt: skip
    list_models: bool = option(Flag(), "show the architectures and stop", default=False, group="model", alone=True)
    devices: int | None = option(Whole(1), "train on the first N GPUs", default=None, unset="all", group="machine")
    cache: str = option(Choice(CACHE_MODES), "where decoded images are kept", default="auto", group="machine")
    threads: int | None = option(
        Whole(1), "batches loaded at the same time", default=None, unset="one for each core", group="machine"
    )
    checkpoint_seconds: float = option(
        Real(0, metavar="S"), "seconds between two checkpoints", default=60.0, group="machine"
    )
    quiet: bool = option(Flag(), "no progress bar", default=False, group="machine")


def run(given: Given) -> int:
    """Trains, or resumes, the run that a command line describes."""
    from tfrecords.dataset import open_dataset
    from trainer.facts import DataFacts, check_trainable
    from trainer.models import check_weights
    from trainer.run import check_free, create_run, locked, open_run
    from trainer.training.inputs import training_steps
    from trainer.training.stopping import Stopped, stop_on_signals

    if given.get("list_models"):
        print(model_table())
        return EXIT_OK
    asked, chosen = given.make(TrainOptions), given.of(TrainConfig)
    stream: dict[str, Any] = {"cache": asked.cache, "threads": asked.threads}
    root = Path(asked.run)
    _check_backend()
    with contextlib.ExitStack() as held:
        if asked.resume:
            open_run(root)  # before a lock is left in a folder that is no run
            held.enter_context(locked(root))
            run = open_run(root)
            _check_same(run, asked, chosen)
            if run.state == "finished":
                print(f"{run.root} is finished; nothing to do")
                return EXIT_OK
            data = open_dataset(asked.data or run.facts.path)
        else:
            if asked.data is None:
                raise UsageError("--data is missing: the data set to train on (or --resume, to resume a run)")
            check_free(root, asked.overwrite)
            config, positive = choose_config(asked.preset, asked.config, chosen)
            data = open_dataset(asked.data)
            facts = DataFacts.of(data, asked.positive or positive)
            check_trainable(data, facts, config.monitor)
            if config.weights != "none":
                load_tensorflow_quietly()
                check_weights(config.model, config.weights)
            training_steps(data, config, facts, **stream)
            held.enter_context(locked(root))
            run = create_run(root, config, facts, asked.preset, asked.overwrite, given.argv)
        stop = held.enter_context(stop_on_signals())  # already now: the imports take long
        load_tensorflow_quietly()
        from trainer.training.loop import train

        print(_introduction(run), flush=True)
        if warning := data.small_split("val"):
            print(f"WARNING {warning}", flush=True)
        try:
            history = train(
                run, data, resume=asked.resume, stop=stop, checkpoint_seconds=asked.checkpoint_seconds,
                devices=asked.devices, quiet=asked.quiet, **stream,
            )  # fmt: skip
        except Stopped as stopped:
            print(stopped, file=sys.stderr)
            return EXIT_INTERRUPTED if stopped.signal == signal.SIGINT else 128 + stopped.signal
    print(
        f"\n{_outcome(run, len(history))}\n"
        f"evaluate it:  cxr evaluate --run {run.root} --data {data.root} --split val\n"
        f"watch it:     cxr board {run.root.parent}"
    )
    return EXIT_OK


def _check_backend() -> None:
    """Raises unless Keras can be loaded with the backend that is asked for."""
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    if backend not in ("tensorflow", "jax"):
        raise InputError(f"KERAS_BACKEND={backend}: expected tensorflow or jax")
    if importlib.util.find_spec(backend) is None:
        raise MissingExtraError(f"KERAS_BACKEND={backend}", backend, "jax" if backend == "jax" else "train")


def model_table() -> str:
    """The architectures, what they are, and the options that each has."""
    from tabulate import tabulate

    from trainer.models import MODELS
    from trainer.models.model_options import describe_options

    rows, parts = [], []
    for name, spec in MODELS.items():
        rows.append([name, spec.description, spec.image_size, "yes" if spec.pretrained else ""])
        parts.append(f"{name}: --model-options\n{tabulate(describe_options(spec.options), tablefmt='plain')}")
    return "\n\n".join([tabulate(rows, ["model", "what it is", "pixels", "pretrained"]), *parts])


def choose_config(preset: str | None, file: str | None, options: dict[str, Any]) -> tuple[TrainConfig, str | None]:
    """The configuration that preset, file and options make, each replacing what is before it.

    Another model or augmentation comes with its own options, not with those of the one before; options of the same are
    added to them.

    Returns:
      It, and the positive label that the file names, if it is a run's.

    Raises:
      InputError: the file cannot be read, or a value is bad.
    """
    fields: dict[str, Any] = dict(PRESETS[preset].config) if preset else {}
    positive = None
    if file is not None:
        read, positive = _read_config(file)
        fields.update(read)
    for of, names in (("model", "model_options"), ("augment", "augment_options")):
        if options.get(of, fields.get(of)) != fields.get(of):
            fields.pop(names, None)
        if names in options:
            options = {**options, names: {**fields.get(names, {}), **options[names]}}
    if "freeze_epochs" not in options:  # the recipe's own gives way to options beside it
        if options.get("weights") == "none":
            fields.pop("freeze_epochs", None)
        elif "epochs" in options and "freeze_epochs" in fields:
            fields["freeze_epochs"] = min(fields["freeze_epochs"], options["epochs"])
    return TrainConfig.from_json({**fields, **options}), positive


def _read_config(file: str) -> tuple[dict[str, Any], str | None]:
    """Options of a JSON file, which may be a run's own record; and of that the positive label."""
    try:
        read = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"--config {file} cannot be read: {error}") from error
    if not isinstance(read, dict) or not isinstance(read.get("config", {}), dict):
        raise InputError(f"--config {file}: expected a JSON object of options, received {type(read).__name__}")
    if "config" not in read:
        return read, None
    return read["config"], (read.get("data") or {}).get("positive")


def _check_same(run: Any, asked: TrainOptions, chosen: dict[str, Any]) -> None:
    """Raises InputError where options beside --resume differ from the run's."""
    if asked.overwrite:
        raise InputError("--resume keeps a run and --overwrite replaces it; choose one")
    preset = dict(PRESETS[asked.preset].config) if asked.preset else {}
    wanted = TrainConfig.from_json({**run.config.to_json(), **preset, **chosen}).resolved().to_json()
    if (asked.positive or run.facts.positive) != run.facts.positive:
        raise InputError(f"--positive {asked.positive}: the positive label of {run.root} is {run.facts.positive}")
    differing = [
        f"{name} {value} in the run, {wanted[name]} now"
        for name, value in run.config.to_json().items()
        if value != wanted[name]
    ]
    if differing or asked.config:
        raise InputError(
            f"--resume continues {run.root} as it was configured; {'; '.join(differing) or 'leave out --config'}. "
            "Start another --run for other options"
        )


def _introduction(run: Any) -> str:
    from trainer.training.precision import accelerators, choose_precision

    config, facts = run.config, run.facts
    gpus = accelerators()
    return (
        f"{config.model} on {config.size_text}, {choose_precision(config.mixed_precision)} on "
        f"{f'{gpus} GPU' + 's' * (gpus > 1) if gpus else 'CPU'}; {facts.task}: {', '.join(facts.labels)}\n"
        f"{facts.images.get('train', 0)} training images, {facts.images.get('val', 0)} validation images; "
        f"seed {config.seed}; run directory {run.root}"
    )


def _outcome(run: Any, epochs: int) -> str:
    said = run.read_outcome()
    ended = " (stopped early)" if epochs < run.config.epochs else ""
    return f"best epoch: {said['best_epoch']} of {epochs}{ended}, {run.config.monitor} {said['best']:.4f}"


COMMAND = Command(
    "train", _DESCRIPTION, run, (TrainOptions, TrainConfig), _EPILOG.format(presets=preset_help()), needs="train",
    groups=(_WHERE, "model", "images", "training", "machine"),
)  # fmt: skip
main = COMMAND.main

if __name__ == "__main__":
    raise SystemExit(run_command(main))
