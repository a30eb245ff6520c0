"""A line an epoch for people."""

from __future__ import annotations

from typing import Any

import keras

from cxr.console import progress_bar
from trainer.training.keeper import Keeper

_SHOWN = {
    "loss": "loss", "accuracy": "accuracy", "val_loss": "val loss", "val_accuracy": "val accuracy",
    "val_auc": "val AUC",
}  # fmt: skip


class EpochBar(keras.callbacks.Callback):
    """A progress bar over the steps of an epoch, and what came of it when it has ended."""

    def __init__(self, keeper: Keeper):
        super().__init__()
        self.keeper = keeper
        self._bar: Any = None

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        position = self.keeper.position
        name = f"epoch {epoch + 1}/{self.keeper.run.config.epochs}"
        self._bar = progress_bar(self.keeper.steps, name, unit="step", initial=position.step, leave=False)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        if batch:  # so many steps are done
            self._bar.update()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if self._bar is not None:  # it is where only the end of an epoch was left to do
            self._bar.close()
        logs = logs or {}
        shown = ", ".join(f"{title} {float(logs[name]):.4f}" for name, title in _SHOWN.items() if name in logs)
        rate = f", {logs['images_per_second']:.0f} images/s" if "images_per_second" in logs else ""
        print(f"epoch {epoch + 1}/{self.keeper.run.config.epochs}: {shown}{rate}", flush=True)
