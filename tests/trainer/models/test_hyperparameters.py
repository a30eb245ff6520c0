"""What a search may vary in each family of models, and the options that it stands for."""

import pytest

from cxr.errors import InputError
from trainer.models import MODELS, model_options
from trainer.models.hyperparameters import FAMILIES, options_of


@pytest.mark.parametrize("model", MODELS)
def test_every_value_that_is_searched_is_one_that_the_model_takes(model):
    family = FAMILIES[type(MODELS[model].options)]
    for own in family.hyperparameters:
        assert own.about
        assert all(off in family.find(other).values for other, off in own.unless)
        for value in own.values or ((own.low, own.high) if own.varied else ()):
            model_options(model, options_of(MODELS[model].options, {own.name: value}))


@pytest.mark.parametrize("model, values, options", [
    ("mlp", {"layers": 3}, {"dense": [512, 512, 512]}),
    ("mlp", {"units": 64, "kernel": 3}, {"dense": [64, 64]}),
    ("cnn-separable", {"width": 24, "growth": 1.5, "blocks": 3}, {"filters": [24, 32, 56]}),
    ("cnn-separable", {"width": 384, "growth": 2.0, "blocks": 2}, {"filters": [384, 384]}),
    ("cnn-separable", {"block": "residual", "plain_blocks": 1}, {"block": ["plain", "residual"]}),
    ("cnn-separable", {"plain_blocks": 1}, {}),
    ("cnn3", {"dense": "none", "convolutions": 2}, {"dense": [], "convolutions": [2]}),
    ("xception-small", {"width": 16}, {"filters": [16, 32, 48]}),
    ("resnet18", {"width": 16, "blocks": 3}, {"filters": 16, "depths": [3, 3, 3, 3]}),
    ("vgg16", {"dense": "512", "activation": "gelu"}, {"dense": [512], "activation": "gelu"}),
])  # fmt: skip
def test_the_options_that_hyperparameters_stand_for(model, values, options):
    assert options_of(MODELS[model].options, values) == options


def test_a_value_that_cannot_be_is_refused():
    with pytest.raises(InputError, match=r"width=24\.5: expected a whole number"):
        options_of(MODELS["resnet18"].options, {"width": 24.5})
