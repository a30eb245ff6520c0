"""The report of an evaluation: one page for a reader, pictures for slides, and the same in TensorBoard.

plots, style     figures, drawn without any undefined value stopping them
gallery          the images shown, and where the model looked
words            what the figures say in sentences
sections, markup the page
board            TensorBoard
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from cxr.errors import OutputError
from cxr.files import write_atomically
from trainer.evaluation.metrics import classification_report
from trainer.report import plots, sections
from trainer.report.evaluation_log import write_board
from trainer.report.gallery import choose_examples, contact_sheet, read_pictures
from trainer.report.markup import Html, element, join, page, paragraph
from trainer.report.markup import plots as beside
from trainer.report.style import to_pixels, to_svg

if TYPE_CHECKING:
    import keras

    from tfrecords.dataset import XrayDataset
    from trainer.evaluation.operating_point import OperatingPoint
    from trainer.evaluation.predictions import Predictions
    from trainer.run import Run

REPORT_NAME = "report.html"
PLOTS_NAME = "plots"
"""Folder of the pictures, beside the report."""


def write_report(
    folder: Path,
    run: Run,
    data: XrayDataset,
    model: keras.Model,
    predictions: Predictions,
    point: OperatingPoint,
    metrics: Mapping[str, Any],
) -> None:
    """Writes `report.html` and `plots/*.png` into a folder, and an event file into the run's TensorBoard folder.

    The page needs no other file and no network. Files of an earlier evaluation of the split are replaced.

    Args:
      folder: exists.
      run: that was evaluated.
      data: that it was evaluated on.
      model: of the run.
      predictions: of the split.
      point: what decides.
      metrics: as `trainer.evaluate.evaluate` gives them; see there.

    Raises:
      DatasetError: an image to be shown is damaged.
      OutputError: a file cannot be written.
    """
    history = run.read_history()
    best_epoch = run.read_outcome().get("best_epoch")
    figures = draw(predictions, point, metrics, history, best_epoch)
    groups = choose_examples(predictions, point, metrics["positive"])
    pictures, why_no_heat = read_pictures(groups, predictions, data, metrics["split"], model, run.config)
    slides = {name: to_pixels(figure) for name, figure in figures.items()}
    for name, mistakes in (("mistakes", True), ("gradcam", False)):
        sheet = contact_sheet(groups, pictures, predictions, mistakes)
        if sheet is not None:
            slides[name] = sheet
    report = classification_report(predictions, point.apply(predictions))

    svg = {name: to_svg(figures[name], name, _DESCRIPTIONS[name]) for name in figures if name not in _IN_PANELS}
    causes = sections.causes_section(predictions, point, metrics)
    content = [
        ("What was evaluated", sections.what_was_evaluated(run, data, metrics)),
        ("The result", sections.the_result(run, data, metrics)),
        ("Metrics", sections.metrics_table(metrics)),
        ("Right and wrong, counted", _confusion(metrics, report)),
        ("Curves", beside(svg["roc"], svg["pr"], svg["calibration"], svg["scores"], captions=_CAPTIONS)),
        ("Training", sections.history_section(_history(history, best_epoch), run)),
        ("Under shifts of the images", sections.shifts_section(metrics, svg.get("shifts"))),
        *([("By cause", causes)] if causes else []),
        ("The worst mistakes", sections.gallery_section(groups, pictures, predictions, why_no_heat, True)),
        ("Some right answers", sections.gallery_section(groups, pictures, predictions, why_no_heat, False)),
        ("How it was made", sections.how_it_was_made(run, data, metrics)),
    ]
    title = f"{run.name} on {metrics['split']}"
    try:
        write_atomically(folder / REPORT_NAME, page(f"Evaluation of {title}", sections.DISCLAIMER, content))
        _save_slides(folder / PLOTS_NAME, slides)
        write_board(
            run.tensorboard / "evaluation" / metrics["split"],
            predictions,
            metrics,
            report,
            slides,
            int(best_epoch or 0),
        )
    except OSError as error:
        raise OutputError(f"the report in {folder} cannot be written: {error.strerror or error}") from error


def draw(
    predictions: Predictions,
    point: OperatingPoint,
    metrics: Mapping[str, Any],
    history: list[dict[str, float]],
    best_epoch: int | None,
) -> dict[str, Figure]:
    """All figures by name; `history` and `shifts` only where there are any."""
    tables = plots.confusion_tables(metrics)
    figures = {
        "roc": plots.roc_figure(predictions, metrics),
        "pr": plots.pr_figure(predictions, metrics),
        "confusion": plots.confusion_figure(tables, _cells(metrics)),
        "calibration": plots.calibration_figure(predictions, metrics),
        "scores": plots.score_figure(predictions, point, metrics),
    }
    if history:
        figures["history"] = plots.history_figure(history, best_epoch)
    if metrics["shifts"]:
        figures["shifts"] = plots.shift_figure(metrics)
    return figures


def _confusion(metrics: Mapping[str, Any], report: str) -> Html:
    """A panel a figure, so that they stand beside or below each other; and scikit-learn's table."""
    parts = []
    for number, (title, table) in enumerate(plots.confusion_tables(metrics).items()):
        for kind in _cells(metrics):
            figure = plots.confusion_figure({title: table}, (kind,))
            parts.append(to_svg(figure, f"confusion{number}{kind}", f"confusion matrix {title} {kind}"))
    return join(
        [
            paragraph("Each row is what is true, each column what the model said; what lies on the diagonal is right."),
            beside(*parts, small=len(parts) > 2),
            element("h3", "Classification report"),
            paragraph("By scikit-learn, which writes 0 where a figure is undefined.", class_="muted"),
            element("pre", report),
        ]
    )


def _cells(metrics: Mapping[str, Any]) -> tuple[plots.Cells, ...]:
    return ("both",) if isinstance(metrics["confusion"], Mapping) else ("images", "share")


def _history(history: list[dict[str, float]], best_epoch: int | None) -> list[str]:
    if not history:
        return []
    panels = {"loss": "loss by epoch", "auc": "AUC and accuracy by epoch"}
    return [
        to_svg(plots.history_figure(history, best_epoch, [panel]), f"history{panel}", description)
        for panel, description in panels.items()
    ]


def _save_slides(folder: Path, slides: Mapping[str, np.ndarray]) -> None:
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.png"):
        if old.stem not in slides and old.stem in _DESCRIPTIONS:
            old.unlink()
    for name, pixels in slides.items():
        Image.fromarray(pixels).save(folder / f"{name}.png", compress_level=3)


_IN_PANELS = ("confusion", "history")
"""Figures of several panels, which the page has one by one so that they fit a telephone."""
_DESCRIPTIONS = {
    "roc": "ROC curve", "pr": "precision-recall curve", "confusion": "confusion matrix", "calibration": "calibration",
    "scores": "histogram of the probabilities", "history": "training history", "shifts": "metrics under shifts",
    "mistakes": "the worst mistakes", "gradcam": "where the model looked when it was right",
}  # fmt: skip
_CAPTIONS = (
    "The further up and left, the better; the dotted line is guessing. The dot is where the threshold puts it.",
    "How many of the alarms are right, against how many findings are found.",
    "On the dotted line, of the images given 70 %, 70 % have it. Below: how many images get such a probability.",
    "A good model keeps the two apart; what lies on the wrong side of the threshold is a mistake.",
)
