"""Tells a person what Keras does not: that a call on a stream would never end, or fail with an unclear error.

Keras 3 asks a dataset for its cardinality when a call takes it over, takes an endless one without a word, and runs for
ever unless it was told the number of steps. The dataset is not told who asks, so this looks at the callers. Another
version of Keras may be built otherwise: then nothing is found and nothing is checked. Keras is not imported.
"""

from __future__ import annotations

import sys
from types import FrameType

from cxr.errors import InputError
from tfrecords.streaming.stream_options import StreamOptions


def check_keras_call(options: StreamOptions) -> None:
    """Checks what is asking for the cardinality of a stream.

    Raises:
      InputError: Keras, without a number of steps of an endless stream, or to fit or evaluate one with metadata.
    """
    found = _keras_call()
    if found is None:
        return
    call, steps = found
    if options.epochs is None and steps is None:
        raise InputError(
            f"{call} would never end: the stream of split '{options.split}' is endless, as training=True makes it. "
            "Pass the number of batches (steps_per_epoch= or validation_steps= to fit, steps= to evaluate and predict; "
            "data.steps_per_epoch(...) has it), or make the stream with epochs=1"
        )
    if options.metadata and call != "predict":
        kept = ", ".join(["image", "label", *["weight"] * options.sample_weights])
        raise InputError(
            f"{call} takes (image, label) or (image, label, weight); metadata=True adds a dictionary, which Keras "
            f"would take for weights. Make the stream without it, or stream.map(lambda {kept}, facts: ({kept}))"
        )


def _keras_call() -> tuple[str, int | None] | None:
    """The method of a Keras model that is taking over a dataset, and the number of steps it was given; else None."""
    frame: FrameType | None = sys._getframe(1)
    given, steps = False, None
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith("keras."):
            name = frame.f_code.co_name
            if name == "__init__" and not given and "steps_per_epoch" in frame.f_locals:
                given, steps = True, frame.f_locals["steps_per_epoch"]
            elif name in ("fit", "evaluate", "predict"):
                return (name, steps) if given else None
        frame = frame.f_back
    return None
