"""How fast models train from a stream, beside the same steps on one batch that never changes.

    python benchmarks/train.py --data DIR [--models cnn-separable,resnet50] [--sizes 224,512] [--json FILE]

For each model, size and number format: images/s of whole training steps fed by the stream, images/s of the same steps
on a constant batch, their ratio, and the share of the stream's steps that waits for input. Formats are float32 and, on
a GPU, what `--mixed-precision auto` chooses. KERAS_BACKEND chooses the backend.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import keras
from tabulate import tabulate

from cxr.machine import usable_cores
from tfrecords.dataset import XrayDataset, open_dataset
from trainer.facts import DataFacts
from trainer.train_config import TrainConfig
from trainer.training.classifier import build_classifier, compile_classifier
from trainer.training.input_monitor import InputMonitor
from trainer.training.inputs import stream_options
from trainer.training.precision import accelerators, choose_precision

COLUMNS = ("model", "pixels", "format", "stream, images/s", "constant, images/s", "ratio", "input wait")


def measure(data: XrayDataset, config: TrainConfig, steps: int) -> dict[str, Any]:
    """Figures of one configuration: two short fits, the second of each counts."""
    facts = DataFacts.of(data)
    stream = data.stream("train", **stream_options(config, facts.multi_label))
    found = {}
    for kind, dataset in (("stream", stream), ("constant", stream.take(1).cache().repeat())):
        model = build_classifier(config, facts)
        compile_classifier(model, config, facts, steps, 2, config.learning_rate, 0.0)
        monitor = InputMonitor()
        model.fit(
            monitor.watch(dataset), steps_per_epoch=steps, epochs=2, callbacks=[monitor], shuffle=False, verbose=0
        )
        found[kind] = monitor.last_epoch.images_per_second
        found[f"{kind} wait"] = monitor.last_epoch.wait_share
        keras.utils.clear_session()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--models", default="cnn-separable,resnet50,densenet121")
    parser.add_argument("--sizes", default="224,512")
    parser.add_argument("--augment", default="strong")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    data = open_dataset(arguments.data)
    formats = sorted({"float32", choose_precision("auto")}, reverse=True)
    rows, figures = [], []
    models, sizes = arguments.models.split(","), map(int, arguments.sizes.split(","))
    for model, size, precision in itertools.product(models, sizes, formats):
        config = TrainConfig(
            model=model, image_size=size, mixed_precision=precision, augment=arguments.augment, equalize=True,
            batch_size=arguments.batch_size, epochs=2,
        )  # fmt: skip
        found = measure(data, config, arguments.steps)
        ratio = found["stream"] / found["constant"]
        figures.append({"model": model, "pixels": size, "format": precision, "ratio": ratio, **found})
        rates = (f"{found['stream']:.0f}", f"{found['constant']:.0f}", f"{ratio:.2f}", f"{found['stream wait']:.2%}")
        rows.append([model, size, precision, *rates])
    print(tabulate(rows, COLUMNS, disable_numparse=True))
    if arguments.json:
        machine = {
            "cores": usable_cores(), "accelerators": accelerators(), "platform": platform.platform(),
            "backend": keras.backend.backend(),
        }  # fmt: skip
        options = {name: str(value) for name, value in vars(arguments).items() if name != "json"}
        arguments.json.write_text(
            json.dumps({"machine": machine, "options": options, "runs": figures}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
