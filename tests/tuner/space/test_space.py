"""What is varied, when it matters, and what it means for a training run."""

import json

import pytest
from keras_tuner import Objective
from keras_tuner.oracles import GridSearchOracle, RandomSearchOracle

from cxr.errors import InputError
from trainer.facts import DataFacts
from trainer.models import MODELS
from trainer.train_config import TrainConfig
from tuner.space.catalogue import SPACES
from tuner.space.parameter import Parameter
from tuner.space.space import Space
from tuner.space.translation import MEANINGS

POINTS = 40
FACTS = DataFacts(
    path="data", digest="d" * 64, labels=("NORMAL", "PNEUMONIA"), multi_label=False, positive="PNEUMONIA", channels=1,
    bit_depth=8, pixel_mean=0.5, pixel_std=0.2, images={"train": 90, "val": 10},
)  # fmt: skip
RUN = {"epochs": 4, "monitor": "val_auc", "seed": 0}


@pytest.fixture(params=sorted(SPACES))
def space(request):
    return Space.named(request.param)


def draw(space, count, folder, seed=1):
    """Points as KerasTuner's oracle draws them."""
    oracle = RandomSearchOracle(
        objective=Objective("val_auc", "max"), max_trials=count, hyperparameters=space.hyperparameters(), seed=seed
    )
    oracle._set_project_dir(str(folder), "drawn")
    oracle.verbose = 0
    points = []
    while (trial := oracle.create_trial("w")).status == "RUNNING":
        points.append(space.chosen(trial.hyperparameters.values))
        oracle.ongoing_trials.clear()
    return points


def meant(space, values, **changes):
    """The training run, with every option written out."""
    return space.train_config(values, **{**RUN, **changes}).resolved()


def test_every_point_is_a_training_run_of_what_is_active(space, tmp_path):
    points = draw(space, POINTS, tmp_path)
    assert points
    for values in points:
        for epochs in (1, 2, 27):
            config = meant(space, values, epochs=epochs)
            assert 1 <= config.epochs <= epochs
            assert config.warmup_epochs <= config.epochs
            assert config.freeze_epochs <= config.epochs
        active = {parameter.name for parameter in space.active(values)}
        assert set(values) == active
        config = meant(space, values)
        for parameter in space.parameters:
            if parameter.name not in active:
                for value in parameter.samples:
                    assert meant(space, {**values, parameter.name: value}) == config, (parameter.name, value)


def test_no_parameter_is_dead(space, tmp_path):
    """Each that is active changes the run, with every value."""
    changed = dict.fromkeys(space.names, 0)
    parents = {name for parameter in space.parameters for name, _ in parameter.when}  # others come and go with them
    for values in draw(space, POINTS, tmp_path):
        config = meant(space, values, epochs=50)
        for parameter in space.active(values):
            for other in set(parameter.samples) - {values[parameter.name]}:
                if parameter.name not in parents:
                    assert meant(space, {**values, parameter.name: other}, epochs=50) != config, (parameter.name, other)
                    changed[parameter.name] += 1
    never = [name for name, count in changed.items() if not count and name not in parents]
    rare = {"fine_tune_learning_rate", "fine_tune_layers"}
    assert not set(never) - rare, f"not one of {POINTS} points had {never}"


def test_no_parameter_of_the_published_architectures_is_dead(tmp_path):
    space = Space.named("full").fix({"model": "vgg16", "optimizer": "adam"}).narrow({"freeze_epochs": [1, 2, 4]})
    changed = set()
    for values in draw(space, POINTS, tmp_path):
        config = meant(space, values, epochs=50)
        for name, samples in ((each.name, each.samples) for each in space.active(values)):
            others = {*samples} - {values[name]}
            assert all(meant(space, {**values, name: other}, epochs=50) != config for other in others)
            changed.add(name)
    assert changed == {parameter.name for parameter in space.parameters}
    assert {"weights", "freeze_epochs", "fine_tune_learning_rate", "fine_tune_layers", "activation"} <= changed


@pytest.mark.parametrize("name", ["model", "optimizer", "block"])
def test_parents_change_the_run_too(name, tmp_path):
    space = Space.named("full")
    parameter = next(each for each in space.parameters if each.name == name)
    for values in draw(space, 20, tmp_path):
        if name in values:
            runs = {json.dumps(meant(space, {**values, name: value}).to_json()) for value in parameter.values}
            assert len(runs) == len(parameter.values)


@pytest.mark.parametrize("model", ["mlp", "cnn3", "cnn-separable", "xception-small", "resnet18"])
def test_models_that_are_drawn_can_be_built_and_the_largest_is_bounded(model, tmp_path):
    from trainer.training.classifier import build_classifier

    space = Space.named("compact")
    drawn = next(iter(draw(space.fix({"model": model}), 1, tmp_path)))
    largest = {"model": model}
    for parameter in space.parameters[1:]:
        if parameter.matters(largest):
            largest[parameter.name] = parameter.samples[-1]
    for values in ({**drawn, "model": model}, {**largest, "pool": "max", "block": "plain"}):
        assert build_classifier(meant(space, values), FACTS).count_params() < 30_000_000


def test_the_compact_space_has_no_model_with_pretrained_weights_and_the_full_one_has_all():
    choices = {
        name: next(p for p in Space.named(name).parameters if p.name == "model").values for name in ("compact", "full")
    }
    assert not any(MODELS[name].pretrained for name in choices["compact"])
    assert set(choices["full"]) == set(MODELS) - {"mlp-tanh"}  # an mlp is one where that is chosen


def test_the_notebooks_grid_has_every_recipe_with_its_own_options():
    space = Space.named("notebooks")
    assert space.combinations() == 24
    from trainer.presets import PRESETS

    for preset in ("mlp-tanh", "mlp", "cnn3", "cnn-separable", "vgg16-frozen", "vgg19-frozen"):
        config = space.train_config({"preset": preset, "augment": "light", "equalize": True}, **{**RUN, "epochs": 50})
        recipe = TrainConfig.from_json(PRESETS[preset].config)
        for name in ("model", "image_size", "optimizer", "learning_rate", "batch_size", "epochs", "freeze_epochs"):
            assert getattr(config, name) == getattr(recipe, name), name
        assert (config.augment, config.equalize, config.monitor) == ("light", True, "val_auc")


def test_a_recipe_with_frozen_layers_stays_frozen_in_fewer_epochs():
    space = Space.named("notebooks")
    config = space.train_config({"preset": "vgg16-frozen", "augment": "none", "equalize": False}, **RUN)
    assert (config.epochs, config.freeze_epochs) == (4, 4)


@pytest.mark.parametrize("name", ["notebooks", "compact"])
def test_as_many_combinations_as_a_grid_search_tries(name, tmp_path):
    space = Space.named(name)
    if name == "compact":
        keep = ("model", "optimizer", "layers", "blocks", "plain_blocks", "block", "dense")
        others = {p.name: p.samples[0] for p in space.parameters if p.name not in keep}
        less = {"model": "mlp,cnn-separable", "optimizer": "adamw,sgd"}
        less |= {"dense": "none,64", "layers": "1,2", "blocks": "3,4"}
        space = space.fix(others).narrow(less)
    oracle = GridSearchOracle(objective=Objective("val_auc", "max"), hyperparameters=space.hyperparameters())
    oracle._set_project_dir(str(tmp_path), "grid")
    oracle.verbose = 0
    tried = set()
    while (trial := oracle.create_trial("w")).status == "RUNNING":
        tried.add(json.dumps(meant(space, space.chosen(trial.hyperparameters.values)).to_json(), sort_keys=True))
        trial.status = "COMPLETED"
        oracle.trials[trial.trial_id].metrics.register("val_auc", direction="max")
        oracle.trials[trial.trial_id].metrics.update("val_auc", 0.5)
        oracle.end_trial(trial)
    assert len(tried) == space.combinations()


def test_a_space_survives_its_json(space):
    assert Space.from_json(json.loads(json.dumps(space.to_json()))) == space


def test_fixing_removes_what_can_no_longer_matter():
    space = Space.named("full").fix({"model": "cnn-separable", "optimizer": "sgd"})
    gone = {"model", "optimizer", "layers", "units", "weights", "freeze_epochs", "weight_decay"}
    assert not set(space.names) & gone
    assert {"blocks", "kernel"} <= set(space.names)
    assert [(each.low, each.when) for each in space.variants("learning_rate")] == [(1e-3, ())]
    assert [each.when for each in space.variants("blocks")] == [()]
    assert [each.when for each in space.variants("plain_blocks")] == [(("block", ("separable", "residual")),)]


def test_a_fixed_value_holds_in_every_trial(tmp_path):
    fixed = {"image_size": 112, "learning_rate": 0.05, "label_smoothing": 0.2, "gradient_clip": 1.0}
    points = draw(space := Space.named("compact").fix(fixed), POINTS, tmp_path)
    assert {values["optimizer"] for values in points} > {"sgd"}
    assert {values["model"] for values in points} > {"mlp"}
    for values in points:
        assert {name: getattr(meant(space, values), name) for name in fixed} == fixed


@pytest.mark.parametrize(
    "general, value, choice", [("image_size", 80, {"model": "mlp"}), ("learning_rate", 0.05, {"optimizer": "sgd"})]
)
def test_the_order_in_which_values_are_fixed_is_the_same(general, value, choice):
    compact = Space.named("compact")
    spaces = [compact.fix({**choice, general: value}), compact.fix(choice).fix({general: value})]
    spaces += [compact.fix({general: value, **choice}), compact.fix({general: value}).fix(choice)]
    assert all(space == spaces[0] for space in spaces)


@pytest.mark.parametrize(
    ("name", "pairs", "models"),
    [
        ("compact", {}, {"cnn-separable", "xception-small", "resnet18"}),
        ("full", {"final": "average"}, {"cnn-separable", "xception-small", "resnet18", "cnn3"}),
        ("notebooks", {}, {"cnn-separable"}),
    ],
)
def test_native_size_leaves_what_can_take_it(name, pairs, models, tmp_path):
    space = Space.named(name).fix({**pairs, "image_size": "native"})
    configs = [meant(space, values) for values in draw(space, POINTS, tmp_path)]
    assert {config.model for config in configs} == models
    assert all(config.native and config.class_weights != "balanced" for config in configs)
    with pytest.raises(InputError, match="model 'mlp' takes images of one size only"):
        Space.named("compact").fix({"model": "mlp", "image_size": "native"})


def test_a_narrowed_value_holds_for_every_model(tmp_path):
    space = Space.named("compact").narrow({"image_size": "64,96,224", "learning_rate": "2e-3..4e-3"})
    assert [each.values for each in space.variants("image_size")] == [(64, 96, 224), (64, 96)]
    for values in draw(space, POINTS, tmp_path):
        config = meant(space, values)
        assert config.image_size in ((64, 96) if config.model in ("mlp", "cnn3") else (64, 96, 224))
        assert 2e-3 <= config.learning_rate <= 4e-3
    one_left = Space.named("compact").narrow({"image_size": "96,224"})
    configs = [meant(one_left, values) for values in draw(one_left, POINTS, tmp_path / "one")]
    sizes = {(config.model in ("mlp", "cnn3"), config.image_size) for config in configs}
    assert sizes == {(True, 96), (False, 96), (False, 224)}


def test_pretrained_weights_are_only_for_models_that_take_them(tmp_path):
    space = Space.named("full").fix({"weights": "imagenet"})
    points = [meant(space, values) for values in draw(space, POINTS, tmp_path)]
    assert {config.weights for config in points} == {"none", "imagenet"}
    assert all(config.weights == ("imagenet" if MODELS[config.model].pretrained else "none") for config in points)
    with pytest.raises(InputError, match="model=resnet18 takes none"):
        Space.named("notebooks").fix({"model": "resnet18"})


@pytest.mark.parametrize(
    "pairs",
    [{"weights": "imagenet"}, {"freeze_epochs": 2}, {"fine_tune_layers": 4},
     {"schedule": "plateau", "warmup_epochs": 1}],
)  # fmt: skip
def test_what_no_trial_has_a_use_for_is_not_fixed_silently(pairs):
    with pytest.raises(InputError, match="no trial of the space uses"):
        Space.named("compact").fix(pairs)


def test_everything_can_be_fixed():
    space = Space.named("compact").fix({"model": "mlp"})
    space = space.fix({parameter.name: parameter.samples[0] for parameter in space.parameters})
    assert space.parameters == () and space.combinations() == 1
    assert meant(space, {}).model == "mlp"


@pytest.mark.parametrize(
    "name, wanted, samples, log",
    [
        ("batch_size", "16,64", (16, 64), False),
        ("batch_size", [64, 16], (64, 16), False),
        ("augment", "light,strong", ("light", "strong"), False),
        ("dense", "none,64", ("none", "64"), False),
        ("image_size", "64,96", (64, 96), False),
        ("learning_rate", "1e-3..1e-2", (1e-3, 1e-2), True),
        ("learning_rate", {"low": 2e-3, "high": 4e-3, "log": False}, (2e-3, 4e-3), False),
        ("learning_rate", "0.001,0.003", (0.001, 0.003), False),
        ("dropout", "0.1..0.3", (0.1, 0.3), False),
    ],
)
def test_narrowing(name, wanted, samples, log):
    found = Space.named("compact").narrow({name: wanted}).variants(name)
    assert {(parameter.samples, parameter.log) for parameter in found} == {(samples, log)}


def test_narrowing_a_model_narrows_what_depends_on_it_and_one_value_is_fixed():
    space = Space.named("compact").narrow({"model": "mlp,cnn3", "equalize": "true"})
    assert space.fixed == {"equalize": True}
    assert "blocks" not in space.names
    assert space.combinations() is None  # of continuous ranges
    assert [(each.values, each.when) for each in space.variants("image_size")] == [((48, 64, 96, 128), ())]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"fix": {"modle": "mlp"}}, "did you mean model"),
        ({"fix": {"model": "vgg99"}}, "vgg99"),
        ({"fix": {"learning_rate": -1}}, "learning_rate=-1"),
        ({"fix": {"equalize": "perhaps"}}, "equalize='perhaps'"),
        ({"fix": {"dense": "wide"}}, "dense='wide': expected a whole number"),
        ({"fix": {"growth": -1}}, "growth=-1: expected a number above 0"),
        ({"narrow": {"image_size": "160,224"}}, "'image_size' for model: cnn3, mlp: expected some of 48, 64, 96, 128"),
        ({"parameters": [{"name": "kernel", "values": [3, 5]}, {"name": "kernel", "values": [5, 7]}],
          "fix": {"model": "cnn3"}}, "'kernel' appears twice"),
        ({"fix": {"warmup_epochs": "long"}}, "warmup_epochs='long': expected a number"),
        ({"space": "full", "fix": {"freeze_epochs": "x"}}, "freeze_epochs='x': expected a whole number"),
        ({"space": "full", "narrow": {"freeze_epochs": {"low": 1, "high": 3}}}, "fine_tune_layers depend on them"),
        ({"narrow": {"learning_rate": {"step": 0.001}}}, "logarithmic range has no step"),
        ({"narrow": {"learning_rate": {"log": "no"}}}, "log='no': expected true or false"),
        ({"narrow": ["model"]}, "narrow=.*expected values"),
        ({"space": 3}, "space=3: expected text"),
        ({"parameters": {"name": "kernel"}}, "expected a list"),
        ({"parameters": ["kernel"]}, "expected a hyperparameter as an object"),
        ({"parameters": [{"name": "optimizer", "values": "adam,sgd"}]}, "values='adam,sgd': expected a list"),
        ({"parameters": [{"name": "model", "values": ["mlp", "cnn3"]},
                         {"name": "units", "values": [8, 9], "when": {"model": "mlp"}}]}, "object of names and lists"),
        ({"parameters": [{"name": "model", "values": ["mlp", "cnn3"]}, {"name": "units", "values": [8, 9]}]},
         "'units' would change nothing with model=cnn3"),
        ({"parameters": [{"name": "units", "values": [64, 128]}]}, "'units' would change nothing"),
        ({"parameters": [{"name": "weights", "values": ["none", "imagenet"]}]}, "'weights' would change nothing"),
        ({"parameters": [{"name": "blocks", "low": 2, "high": 5, "step": 0.5}]}, "expected a whole step"),
        ({"parameters": [{"name": "blocks", "low": 2, "high": 5.0}]}, "blocks=3.5: expected a whole number"),
        ({"parameters": [{"name": "blocks", "values": [3, 3.0]}]}, "a list of different values"),
        ({"fix": {"epochs": 3}}, "no hyperparameter 'epochs'"),
        ({"narrow": {"model": "mlp,vgg16"}}, "'model' cannot be vgg16"),
        ({"narrow": {"learning_rate": "fast"}}, "expected a number or LOW"),
        ({"narrow": {"learning_rate": "1e-2..1e-3"}}, "low < high"),
        ({"narrow": {"lerning_rate": "1e-3..1e-2"}}, "did you mean learning_rate"),
        ({"narrow": {"learning_rate": {"min": 1}}}, "no option 'min'; known are low, high"),
        ({"space": "compakt"}, "did you mean compact"),
        ({"spice": "compact"}, "no option 'spice'; did you mean space"),
        ({"space": "compact", "parameters": []}, "give one of them"),
        ({"parameters": [{"values": [1, 2]}]}, "an object with a name"),
        ({"parameters": [{"name": "kernel", "valeus": [1, 2]}]}, "no option 'valeus'; did you mean values"),
        ({"parameters": [{"name": "kernel", "values": [3]}]}, "at least two different values"),
        ({"parameters": [{"name": "kernel", "values": [3, "5"]}]}, "all texts, all numbers"),
        ({"parameters": [{"name": "kernel"}]}, "expected values, or numbers low < high"),
        ({"parameters": [{"name": "kernel", "values": [3, 400]}], "fix": {"model": "cnn3"}}, "kernel=400"),
        ({"parameters": [{"name": "kernel", "values": [3, 5], "when": {"pool": ["max"]}}]}, "does not come before it"),
        ({"parameters": [{"name": "learning_rate", "low": 0, "high": 1, "log": True}]}, "range begins above 0"),
        ([], "expected a JSON object"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_said_at_once(tmp_path, change, message):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(change))
    with pytest.raises(InputError, match=message) as raised:
        Space.load(str(path))
    assert "mine.json" in str(raised.value)


def test_a_file_that_is_not_there_or_no_json(tmp_path):
    (tmp_path / "bad.json").write_text("{")
    for name in ("none.json", "bad.json"):
        with pytest.raises(InputError, match="cannot be read"):
            Space.load(str(tmp_path / name))


def load(folder, *parameters, **fields):
    (folder / "mine.json").write_text(json.dumps({"parameters": parameters, **fields}))
    return Space.load(str(folder / "mine.json"))


def test_a_space_of_ones_own(tmp_path):
    space = load(
        tmp_path,
        {"name": "model", "values": ["mlp", "cnn3"]},
        {"name": "units", "low": 8, "high": 64, "step": 8, "when": {"model": ["mlp"]}},
        {"name": "gradient_clip", "values": [0.0, 1.0]},
        fix={"image_size": 48},
    )
    assert space.combinations() == 2 * (8 + 1)
    for values in draw(space, 30, tmp_path):
        config = meant(space, values)
        assert config.image_size == 48
        if config.model == "mlp":
            assert config.model_options["dense"][0] == values["units"] and isinstance(values["units"], int)


def test_a_file_may_mix_whole_and_other_numbers_and_fix_what_its_parameters_need(tmp_path):
    parameters = {"name": "dropout", "values": [0, 0.3, 0.5]}, {"name": "units", "values": [64, 128]}
    space = load(tmp_path, *parameters, fix={"model": "mlp"})
    assert space.combinations() == 6
    points = [meant(space, values).model_options for values in draw(space, 20, tmp_path)]
    assert {options["dropout"] for options in points} == {0.0, 0.3, 0.5}
    assert {options["dense"][0] for options in points} == {64, 128}


@pytest.mark.parametrize("fields", [{}, {"name": "x", "parameters": 3, "fixed": {}}, {"name": "x", "parameters": [{}]}])
def test_json_of_another_version_is_refused(fields):
    with pytest.raises(InputError, match="expected a space as this version writes it"):
        Space.from_json(fields)


def test_what_a_trial_is_does_not_depend_on_keras_tuners_own_values(tmp_path):
    space = Space.named("compact")
    values = draw(space, 1, tmp_path)[0]
    assert meant(space, {**values, "tuner/epochs": 3, "tuner/trial_id": "0001"}) == meant(space, values)


def test_every_hyperparameter_is_explained():
    for name in SPACES:
        space = Space.named(name)
        table = space.describe()
        for parameter in space.parameters:
            assert parameter.about and parameter.name in MEANINGS
            assert parameter.name in table


def test_conditions_are_a_chain():
    parent, other = Parameter("model", values=("mlp", "cnn3")), Parameter("optimizer", values=("adam", "adamw"))
    child = Parameter("weight_decay", low=0.0, high=0.1, when=(("model", ("mlp",)), ("optimizer", ("adamw",))))
    with pytest.raises(InputError, match="must begin with those of 'optimizer'"):
        Space("mine", (parent, other, child))
