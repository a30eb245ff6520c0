"""What searches optimise, from the metrics of evaluations."""

from tuner.objectives import metric_values


def test_an_undefined_metric_leaves_the_others():
    """The precision of a model that finds nothing under a shift is undefined; its recall is not."""
    metrics = {"precision": {"value": None}, "recall": {"value": 0.0}, "specificity": {"value": 1.0}}
    assert metric_values(metrics) == {"precision": None, "recall": 0.0, "specificity": 1.0, "balanced_accuracy": 0.5}
