"""`cxr predict`: what a run says of image files, through the same decoding and fitting as training."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import itertools
import json
import sys
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from cxr.command import Command, Given
from cxr.console import EXIT_FAILED, EXIT_OK, progress_bar, run_command
from cxr.errors import OutputError
from cxr.files import open_replacing
from cxr.kinds import Choice, Flag, Real, Several, Text, Whole, directory, file_path
from cxr.machine import load_tensorflow_quietly, usable_cores
from cxr.options import Options, option, options

if TYPE_CHECKING:
    import keras
    import numpy as np

    from trainer.evaluation.operating_point import OperatingPoint
    from trainer.facts import DataFacts
    from trainer.run import Run
    from trainer.serving.image_files import FileLoader, ImageFile

_DESCRIPTION = """\
Predicts the labels of image files: JPEG, PNG, TIFF, BMP, WebP or DICOM, recognised by content, 8 or 16 bit.
A file goes through the very code that preprocessing and training use, and through the rung that training read, so its
probabilities are those of its record, to the last bit."""
_EPILOG = """\
A folder is looked through wholly; what begins with a dot and documents such as .txt and .csv are left out. A table is
a .csv, .tsv or .jsonl file with a column `path`; its other columns are not read.
Colour becomes grey, and grey colour, as in the run's data set; 16 bits are rounded to 8 for a run of 8 bits.

One row an image, in the order given: path, predicted (several labels joined by |), p:LABEL for each label, error.
An image that cannot be used has only path and error, the others go on, and the exit status is 1.

examples:
  cxr predict --run runs/robust chest.dcm
  cxr predict --run runs/robust new_images/ --output predictions.csv
  cxr predict --run runs/robust list.csv --images-root /data --format jsonl | jq .probabilities
"""
FORMATS = ("csv", "jsonl")


@options
class PredictOptions(Options):
    """What `cxr predict` predicts, and how."""

    inputs: tuple[str, ...] = option(
        Several(file_path(), metavar="FILE|DIR|TABLE"), "images, folders of them, or tables", positional=True
    )
    run: str = option(directory("RUN"), "directory of the run")
    images_root: str | None = option(
        directory(), "what a table's paths are relative to", default=None, unset="its own folder"
    )
    output: str | None = option(
        file_path(), "write there when all is done", default=None, unset="standard output, row by row"
    )
    format: str | None = option(
        Choice(FORMATS), "of the output", default=None, unset="by the end of --output's name, else csv"
    )
    operating_point: str | None = option(
        Text(metavar="RULE"),
        "what counts as positive: threshold=T or argmax; or youden, recall=R or specificity=S, chosen on the run's "
        "validation split, which takes a while",
        default=None, unset="what `cxr evaluate` chose, else the most probable label, or threshold=0.5 where an image "
        "may have several labels",
    )  # fmt: skip
    threads: int | None = option(Whole(1), "files decoded at the same time", default=None, unset="one for each core")
    max_megapixels: float = option(Real(above=0, metavar="N"), "a larger image is an error", default=100.0)
    quiet: bool = option(Flag(), "no progress bar and no notes", default=False)


def run(given: Given) -> int:
    """Predicts the files of a command line."""
    asked = given.make(PredictOptions)

    from trainer.serving.image_files import FileLoader, list_image_files

    files = list_image_files(asked.inputs, asked.images_root)
    kind = asked.format or ("jsonl" if str(asked.output).endswith((".jsonl", ".ndjson")) else "csv")
    with _open_output(asked.output) as out:  # before the model, so that a wrong path is known at once
        from trainer.run import open_run

        trained = open_run(asked.run)
        trained.check_weights()
        load_tensorflow_quietly()
        from trainer.training.trained import load_model

        model = load_model(trained)
        point, note = operating_point_of(trained, asked.operating_point, model)
        if note and not asked.quiet:
            print(f"note: {note}", file=sys.stderr)
        loader = FileLoader(trained.config, trained.facts, int(asked.max_megapixels * 1e6))
        found = predict_files(model, loader, files, point, asked.threads)
        # rows on a terminal show how far it is
        hidden = asked.quiet or len(files) < _MANY or (not asked.output and sys.stdout.isatty())
        with contextlib.closing(found):
            shown = progress_bar(len(files), "predict", quiet=hidden, unit="image", iterable=found)
            failed = write_predictions(shown, trained.facts, out, kind)
    if failed:
        where = f", see the column `error` of {asked.output}" if asked.output else ""
        print(f"error: {failed} of {len(files)} images could not be used{where}", file=sys.stderr)
    return EXIT_FAILED if failed else EXIT_OK


_MANY = 100
"""Files from which on there is a progress bar."""


@dataclasses.dataclass(frozen=True, eq=False)
class FilePrediction:
    """What a run says of one file.

    Attributes:
      name: of the file, see `ImageFile`.
      predicted: names of labels: one, or any number of them where an image may have several.
      probabilities: float32 [labels] in [0, 1]; None where the image could not be used.
      error: why not; None where it could.
    """

    name: str
    predicted: tuple[str, ...] = ()
    probabilities: np.ndarray | None = None
    error: str | None = None


def predict_files(
    model: keras.Model, loader: FileLoader, files: Sequence[ImageFile], point: OperatingPoint,
    threads: int | None = None,
) -> Generator[FilePrediction]:  # fmt: skip
    """Yields what the model says of each file, in order. Memory does not grow with their number.

    So many files as there are threads are decoded at the same time, ahead of the model; None is one for each usable
    core. Raises InputError where the model's probabilities are not finite.
    """
    from trainer.serving.image_files import read_ahead
    from trainer.training.validation import PREDICT_BATCH, predict_arrays

    loaded = read_ahead(files, loader.read, threads or usable_cores(), ahead=2 * PREDICT_BATCH)
    with contextlib.closing(loaded):
        while batch := list(itertools.islice(loaded, PREDICT_BATCH)):
            images = [pixels for _, pixels in batch if not isinstance(pixels, str)]
            decided = iter(_decide(predict_arrays(model, images), loader.facts, point) if images else ())
            for file, pixels in batch:
                if isinstance(pixels, str):
                    yield FilePrediction(file.name, error=pixels)
                else:
                    yield FilePrediction(file.name, *next(decided))


def _decide(
    probabilities: np.ndarray, facts: DataFacts, point: OperatingPoint
) -> Iterable[tuple[tuple[str, ...], np.ndarray]]:
    """Names of the labels that are predicted, and probabilities, of each image of float32 [images, labels]."""
    import numpy as np

    from trainer.evaluation.predictions import Predictions

    unknown = np.zeros(probabilities.shape if facts.multi_label else len(probabilities))
    predictions = Predictions(facts.labels, facts.multi_label, probabilities, truth=unknown)
    return zip(predictions.chosen_labels(point.apply(predictions)), predictions.probabilities, strict=True)


def operating_point_of(
    run: Run, rule: str | None = None, model: keras.Model | None = None
) -> tuple[OperatingPoint, str | None]:
    """What decides, and a note for the user where nobody has chosen it. The run is not changed.

    Args:
      run: its own operating point is taken, unless there is none or the rule differs.
      rule: see `trainer.evaluation.operating_point.parse_rule`; None is the run's own, else the most probable label.
      model: of the run, for rules that are chosen on its validation split; loaded where they need one.

    Raises:
      InputError: not a rule for this task, or it needs the run's data set, which is gone or another one now.
      DatasetError: the run's operating point is damaged.
    """
    from trainer.evaluation.operating_point import OperatingPoint, read_operating_point

    facts = run.facts
    stored = read_operating_point(run.operating_point, run.weights_digest())
    if stored and rule in (None, stored.rule):
        return stored, None
    note = None
    if rule is None:
        rule = "threshold=0.5" if facts.multi_label else "argmax"
        says = "labels from 0.5 on are" if facts.multi_label else "the most probable label is"
        note = f"no operating point has been chosen; {says} predicted. `cxr evaluate --run {run.root}` chooses one"
    if point := OperatingPoint.given(rule, facts.labels, facts.multi_label, facts.positive):
        return point, note
    from trainer.training.trained import load_model
    from trainer.training.validation import predict_validation

    return OperatingPoint.choose(predict_validation(run, model or load_model(run)), rule, facts.positive), note


def write_predictions(found: Iterable[FilePrediction], facts: DataFacts, out: IO[str], kind: str = "csv") -> int:
    """Writes predictions as they come; returns how many images could not be used.

    `kind` is `csv`, with the columns of the command's help; or `jsonl`, an object an image with `path`, `predicted` (a
    label, or a list of labels where an image may have several), `probabilities` by label, and `error`.
    """
    failed = 0
    table = csv.writer(out, lineterminator="\n")
    if kind == "csv":
        table.writerow(["path", "predicted", *(f"p:{label}" for label in facts.labels), "error"])
    for one in found:
        failed += one.error is not None
        # a float32's own digits; as a float64 it would have more of them
        texts = None if one.probabilities is None else one.probabilities.astype(str).tolist()
        if kind == "csv":
            table.writerow([one.name, "|".join(one.predicted), *(texts or [""] * len(facts.labels)), one.error or ""])
            continue
        predicted = list(one.predicted) if facts.multi_label else "".join(one.predicted)
        fields = {
            "path": one.name,
            "predicted": predicted if texts else None,
            "probabilities": dict(zip(facts.labels, map(float, texts), strict=True)) if texts else None,
            "error": one.error,
        }
        out.write(json.dumps(fields, ensure_ascii=False) + "\n")
    out.flush()
    return failed


@contextlib.contextmanager
def _open_output(path: str | None) -> Iterator[IO[str]]:
    """Standard output; or a file that appears, or replaces the one there, when all of it is written."""
    if path is None:
        yield sys.stdout
        return
    target = Path(path)
    if target.is_dir():
        raise OutputError(f"cannot write {path}: it is a folder")
    try:
        with open_replacing(target, encoding="utf-8", newline="") as file:
            yield file
    except OSError as error:
        ours = error.filename is None or Path(error.filename).parent == target.parent
        if not ours:  # but of what was done meanwhile
            raise
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error


COMMAND = Command("predict", _DESCRIPTION, run, PredictOptions, _EPILOG, needs="train")
main = COMMAND.main

if __name__ == "__main__":
    sys.exit(run_command(main))
