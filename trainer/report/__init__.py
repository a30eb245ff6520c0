"""The report of an evaluation: one page for a reader, pictures for slides, and the same in TensorBoard.

evaluation_plots  figures, drawn whatever is undefined
gallery           the images shown, and where the model looked (gradcam)
evaluation_words  results in sentences
evaluation_page   data of the page; its template is evaluation.html
evaluation_log    TensorBoard
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from sklearn.metrics import classification_report

from cxr.errors import OutputError
from cxr.files import write_atomically
from cxr.page import DISCLAIMER, render
from cxr.page.figures import to_pixels, to_svg
from trainer.report import evaluation_plots as plots
from trainer.report.evaluation_log import write_board
from trainer.report.evaluation_page import gallery_data, page_data
from trainer.report.gallery import choose_examples, contact_sheet, read_pictures

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
    folder: Path, run: Run, data: XrayDataset, model: keras.Model, predictions: Predictions, point: OperatingPoint,
    metrics: Mapping[str, Any],
) -> None:  # fmt: skip
    """Writes `report.html` and `plots/*.png` into a folder, and an event file into the run's TensorBoard folder.

    The page needs no other file and no network. Files of an earlier evaluation of the split are replaced. The metrics
    are as `trainer.evaluate.evaluate` gives them.

    Raises:
      DatasetError: an image to be shown is damaged.
      OutputError: a file cannot be written.
    """
    history = run.read_history()
    best_epoch = run.read_outcome().get("best_epoch")
    figures = draw(predictions, point, metrics, history, best_epoch)
    slides = {name: to_pixels(figure) for name, figure in figures.items()}
    groups = choose_examples(predictions, point, metrics["positive"])
    why_no_heat = read_pictures(groups, predictions, data, metrics["split"], model, run.config)
    sheets = {name: contact_sheet(groups, predictions, name == "mistakes") for name in ("mistakes", "gradcam")}
    slides.update({name: sheet for name, sheet in sheets.items() if sheet is not None})
    truth, decided = predictions.truth, point.apply(predictions)
    if predictions.multi_label:  # what is not known counts as rightly called absent, which none of these figures counts
        truth, decided = predictions.truth_matrix, decided * predictions.known
    report = classification_report(
        truth, decided, labels=range(len(predictions.labels)),
        target_names=predictions.labels, digits=3, zero_division=0,
    )  # fmt: skip
    text = render(
        Path(__file__).with_name("evaluation.html"),
        f"Evaluation of {run.name} on {metrics['split']}",
        DISCLAIMER,
        **page_data(run, data, predictions, point, metrics),
        svg={name: to_svg(figures[name], name, _DESCRIPTIONS[name]) for name in figures if name not in _IN_PANELS},
        confusion=[  # a figure for each panel, so that the page can place them beside or below each other
            to_svg(plots.confusion_figure([panel]), f"confusion{number}", f"confusion matrix {panel.title}")
            for number, panel in enumerate(plots.confusion_panels(metrics))
        ],
        history=[
            to_svg(plots.history_figure(history, best_epoch, [panel]), f"history{panel}", f"{title} by epoch")
            for panel, title in (("loss", "loss"), ("auc", "AUC and accuracy"))
            if history
        ],
        classification_report=report,
        mistakes=gallery_data(groups, predictions, True),
        right_answers=gallery_data(groups, predictions, False),
        why_no_heat=why_no_heat,
    )
    board = run.tensorboard / "evaluation" / metrics["split"]
    try:
        write_atomically(folder / REPORT_NAME, text)
        _save_slides(folder / PLOTS_NAME, slides)
        write_board(board, predictions, metrics, report, slides, int(best_epoch or 0))
    except OSError as error:
        raise OutputError(f"the report in {folder} cannot be written: {error.strerror or error}") from error


def draw(
    predictions: Predictions, point: OperatingPoint, metrics: Mapping[str, Any], history: list[dict[str, float]],
    best_epoch: int | None,
) -> dict[str, Figure]:  # fmt: skip
    """All figures by name; `history` and `shifts` only where there are any."""
    figures = {
        "roc": plots.roc_figure(predictions, metrics),
        "pr": plots.pr_figure(predictions, metrics),
        "confusion": plots.confusion_figure(plots.confusion_panels(metrics)),
        "calibration": plots.calibration_figure(predictions, metrics),
        "scores": plots.score_figure(predictions, point, metrics),
    }
    if history:
        figures["history"] = plots.history_figure(history, best_epoch)
    if metrics["shifts"]:
        figures["shifts"] = plots.shift_figure(metrics)
    return figures


def _save_slides(folder: Path, slides: Mapping[str, np.ndarray]) -> None:
    folder.mkdir(exist_ok=True)
    for name in _DESCRIPTIONS:
        (folder / f"{name}.png").unlink(missing_ok=True)
    for name, pixels in slides.items():
        Image.fromarray(pixels).save(folder / f"{name}.png", compress_level=3)


_IN_PANELS = ("confusion", "history")
"""Figures of several panels; the page shows the panels one by one, so that they fit a telephone."""
_DESCRIPTIONS = {
    "roc": "ROC curve", "pr": "precision-recall curve", "confusion": "confusion matrix", "calibration": "calibration",
    "scores": "histogram of the probabilities", "history": "training history", "shifts": "metrics under shifts",
    "mistakes": "the worst mistakes", "gradcam": "where the model looked when it was right",
}  # fmt: skip
