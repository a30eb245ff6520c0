"""`cxr train`: trains a model on a data set. The command line of `training.py`; also `python -m trainer.train`."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr.console import EXIT_INTERRUPTED, EXIT_OK, run_command
from cxr.errors import InputError, MissingExtraError
from cxr.machine import load_tensorflow_quietly
from trainer.presets import PRESETS, preset_help

if TYPE_CHECKING:
    from trainer.train_config import TrainConfig

_DESCRIPTION = """\
Trains a classifier on the train split of a data set, chooses the best epoch on the val split, and keeps all of it
in the directory of the run. Stopped or killed, `cxr train --run RUN --resume` goes on in the middle of the epoch."""
_EPILOG = f"""\
presets, each a whole recipe; options given beside one replace its own:
{preset_help()}

examples:
  cxr train --data data/cxr --run runs/robust --preset robust
  cxr train --data data/cxr --run runs/cnn --model cnn-separable --image-size 224 --equalize --augment strong
  cxr train --data data/cxr --run runs/vgg --preset vgg16-frozen --weights vgg16_notop.weights.h5
  cxr train --run runs/robust --resume
  cxr board runs
"""


def build_parser() -> argparse.ArgumentParser:
    """The command line of `cxr train`."""
    parser = argparse.ArgumentParser(
        prog="cxr train",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    what = parser.add_argument_group("what and where")
    what.add_argument("--run", required=True, metavar="RUN", help="directory of the run")
    what.add_argument("--data", metavar="DIR", help="data set of `cxr preprocess` (with --resume, the run's own)")
    what.add_argument("--preset", choices=sorted(PRESETS), metavar="NAME", help="a recipe, see below")
    what.add_argument("--config", metavar="FILE", help="JSON file of options as a run's run.json has them")
    what.add_argument("--resume", action="store_true", default=False, help="go on with a run that was stopped")
    what.add_argument("--overwrite", action="store_true", default=False, help="lose the run that is there")
    what.add_argument(
        "--positive", metavar="LABEL", help="of two labels, the finding (the one not named like 'normal')"
    )
    model = parser.add_argument_group("model")
    model.add_argument("--model", metavar="NAME", help="architecture (cnn-separable); `--list-models` shows them")
    model.add_argument("--list-models", action="store_true", default=False, help="show the architectures and stop")
    model.add_argument(
        "--model-options",
        nargs="+",
        metavar="NAME=VALUE",
        help="of the architecture, e.g. filters=32,64,128 dropout=0.5",
    )
    model.add_argument("--weights", metavar="imagenet|PATH|none", help="weights to begin with (none)")
    model.add_argument(
        "--freeze-epochs", type=int, metavar="N", help="keep pretrained layers as they are for so long (0)"
    )
    model.add_argument("--fine-tune-learning-rate", type=float, metavar="RATE", help="highest rate after that (1e-5)")
    model.add_argument(
        "--fine-tune-layers", type=int, metavar="N", help="pretrained layers that train after that (all)"
    )
    images = parser.add_argument_group("images")
    images.add_argument("--image-size", type=image_size, metavar="N|HxW", help="pixels (224)")
    images.add_argument("--fit", metavar="squash|pad|crop", help="how other shapes come to that size (squash)")
    images.add_argument(
        "--equalize", action=argparse.BooleanOptionalAction, help="equalise each image's histogram (no)"
    )
    images.add_argument(
        "--normalize", metavar="dataset|image|none", help="whose mean and deviation to divide out (dataset)"
    )
    images.add_argument("--augment", metavar="none|light|strong", help="how much training images are changed (light)")
    images.add_argument(
        "--augment-options", nargs="+", metavar="NAME=VALUE", help="ranges of their own, e.g. rotation_degrees=5"
    )
    how = parser.add_argument_group("training")
    how.add_argument("--epochs", type=int, metavar="N", help="passes over the training split (15)")
    how.add_argument("--batch-size", type=int, metavar="N", help="images a step, over all GPUs (32)")
    how.add_argument("--optimizer", metavar="NAME", help="adam, adamw, sgd or rmsprop (adamw)")
    how.add_argument("--learning-rate", type=float, metavar="RATE", help="the highest (0.001)")
    how.add_argument("--schedule", metavar="NAME", help="constant, cosine, exponential or plateau (cosine)")
    how.add_argument("--warmup-epochs", type=float, metavar="N", help="in which the rate rises from 0 (0.5)")
    how.add_argument("--weight-decay", type=float, metavar="X", help="of adamw (0.0001)")
    how.add_argument("--gradient-clip", type=float, metavar="NORM", help="largest norm of the gradients (0: none)")
    how.add_argument("--label-smoothing", type=float, metavar="X", help="share of the label given to all (0)")
    how.add_argument("--ema", type=float, metavar="MOMENTUM", help="average the weights, e.g. 0.999 (0: no)")
    how.add_argument(
        "--class-weights", metavar="auto|none|balanced", help="weigh classes alike, or draw them alike (auto)"
    )
    how.add_argument("--early-stopping", type=int, metavar="PATIENCE", help="epochs without improvement (0: never)")
    how.add_argument("--monitor", metavar="NAME", help="val_auc, val_pr_auc, val_accuracy or val_loss (val_auc)")
    how.add_argument("--seed", type=int, metavar="N", help="of weights, order and augmentation (0)")
    machine = parser.add_argument_group("machine")
    machine.add_argument("--mixed-precision", metavar="auto|float32|bfloat16|float16", help="number format (auto)")
    machine.add_argument("--xla", metavar="auto|on|off", help="compile the training step (auto: on GPUs)")
    machine.add_argument("--devices", type=int, metavar="N", help="train on the first N GPUs (all)")
    machine.add_argument("--cache", metavar="auto|memory|disk|none", help="where fitted images are kept (auto)")
    machine.add_argument("--threads", type=int, metavar="N", help="batches loaded at the same time (cores)")
    machine.add_argument(
        "--checkpoint-seconds", type=float, default=60.0, metavar="S", help="between two checkpoints (60)"
    )
    machine.add_argument("--quiet", action="store_true", default=False, help="no progress bar")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `cxr train`; returns its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "--list-models" in arguments:
        print(model_table())
        return EXIT_OK
    given = vars(build_parser().parse_args(arguments))

    from tfrecords.dataset import open_dataset
    from trainer.facts import DataFacts, check_trainable
    from trainer.models import check_weights
    from trainer.run import check_free, create_run, locked, open_run
    from trainer.training.inputs import training_steps
    from trainer.training.stopping import Stopped, stop_on_signals

    own = ("run", "data", "preset", "config", "resume", "overwrite", "positive", "list_models", "cache", "threads",
           "devices", "checkpoint_seconds", "quiet")  # fmt: skip
    options = {name: value for name, value in given.items() if name not in own}
    for name in ("model_options", "augment_options"):
        if name in options:
            options[name] = parse_options(options[name])
    stream = {name: given[name] for name in ("cache", "threads") if name in given}
    root = Path(given["run"])
    _check_backend()
    if not given["checkpoint_seconds"] >= 0:
        raise InputError(f"--checkpoint-seconds {given['checkpoint_seconds']:g}: expected a number of seconds from 0")
    with contextlib.ExitStack() as held:
        if given["resume"]:
            open_run(root)  # before a lock is left in a folder that is no run
            held.enter_context(locked(root))
            run = open_run(root)
            _check_same(run, options, given)
            if run.state == "finished":
                print(f"{run.root} is finished; nothing to do")
                return EXIT_OK
            data = open_dataset(given.get("data", run.facts.path))
        else:
            if "data" not in given:
                raise InputError("--data is missing: the data set to train on (or --resume, to go on with a run)")
            check_free(root, given["overwrite"])
            config, positive = choose_config(given.get("preset"), given.get("config"), options)
            data = open_dataset(given["data"])
            facts = DataFacts.of(data, given.get("positive", positive))
            check_trainable(data, facts, config.monitor)
            if config.weights != "none":
                load_tensorflow_quietly()
                check_weights(config.model, config.weights)
            training_steps(data, config, facts, **stream)
            held.enter_context(locked(root))
            run = create_run(root, config, facts, given.get("preset"), given["overwrite"], arguments)
        load_tensorflow_quietly()
        from trainer.training.loop import train

        print(_introduction(run), flush=True)
        stop = held.enter_context(stop_on_signals())
        try:
            history = train(
                run, data, resume=given["resume"], stop=stop, checkpoint_seconds=given["checkpoint_seconds"],
                devices=given.get("devices"), quiet=given["quiet"], **stream,
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

    from trainer.models import MODELS, describe_options

    rows = [
        [name, spec.description, spec.image_size, "yes" if spec.pretrained else ""] for name, spec in MODELS.items()
    ]
    parts = [tabulate(rows, ["model", "what it is", "pixels", "pretrained"])]
    for name, spec in MODELS.items():
        options = tabulate(describe_options(spec.options), tablefmt="plain")
        parts.append(f"{name}: --model-options\n{options}")
    return "\n\n".join(parts)


def choose_config(preset: str | None, file: str | None, options: dict[str, Any]) -> tuple[TrainConfig, str | None]:
    """The configuration that preset, file and options make, each replacing what is before it.

    Another model or augmentation comes with its own options, not with those of the one before; options of the same are
    added to them.

    Returns:
      It, and the positive label that the file names, if it is a run's.

    Raises:
      InputError: the file cannot be read, or a value is bad.
    """
    from trainer.train_config import TrainConfig

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


def image_size(text: str) -> int | tuple[int, int]:
    """`224`, or `256x320` as (height, width)."""
    sides = [int(side) for side in text.lower().split("x")]
    if len(sides) not in (1, 2):
        raise ValueError(text)
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def parse_options(pairs: Sequence[str]) -> dict[str, Any]:
    """`name=value` pairs; values are numbers, true, false, text, or several of them with commas.

    Raises:
      InputError: one has no `=`.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        name, sign, text = pair.partition("=")
        if not sign or not name:
            raise InputError(f"'{pair}': expected NAME=VALUE")
        values = [_value(part) for part in text.split(",")]
        found[name.replace("-", "_")] = values if "," in text else values[0]
    return found


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _check_same(run: Any, options: dict[str, Any], given: dict[str, Any]) -> None:
    """Raises InputError where options beside --resume say something else than the run."""
    from trainer.train_config import TrainConfig

    if given["overwrite"]:
        raise InputError("--resume goes on with a run and --overwrite loses it; choose one")
    preset = dict(PRESETS[given["preset"]].config) if "preset" in given else {}
    wanted = TrainConfig.from_json({**run.config.to_json(), **preset, **options}).resolved().to_json()
    if given.get("positive", run.facts.positive) != run.facts.positive:
        raise InputError(f"--positive {given['positive']}: the positive label of {run.root} is {run.facts.positive}")
    differing = [
        f"{name} {value} in the run, {wanted[name]} now"
        for name, value in run.config.to_json().items()
        if value != wanted[name]
    ]
    if differing or "config" in given:
        raise InputError(
            f"--resume goes on with {run.root} as it was configured; {'; '.join(differing) or 'leave --config out'}. "
            "Start another --run for other options"
        )


def _introduction(run: Any) -> str:
    from trainer.training.precision import accelerators, choose_precision

    config, facts = run.config, run.facts
    height, width = config.size
    gpus = accelerators()
    return (
        f"{config.model} on {height} x {width} pixels, {choose_precision(config.mixed_precision)} on "
        f"{f'{gpus} GPU' + 's' * (gpus > 1) if gpus else 'CPU'}; {facts.task}: {', '.join(facts.labels)}\n"
        f"{facts.images.get('train', 0)} images to train on, {facts.images.get('val', 0)} to validate; "
        f"seed {config.seed}; all of it in {run.root}"
    )


def _outcome(run: Any, epochs: int) -> str:
    said = run.read_outcome()
    ended = ", ended early" if epochs < run.config.epochs else ""
    return f"best of {epochs} epochs{ended}: number {said['best_epoch']}, {run.config.monitor} {said['best']:.4f}"


if __name__ == "__main__":
    raise SystemExit(run_command(main))
