"""Training, evaluation, prediction and export on the data sets that `tfrecords` describes.

From a notebook or another program:

    data = tfrecords.open_dataset("data")
    config = trainer.train_config.TrainConfig(model="cnn-separable", image_size=96, augment="strong", equalize=True)
    run = trainer.run.create_run("runs/mine", config, trainer.facts.DataFacts.of(data))
    history = trainer.training.loop.train(run, data)
    metrics = trainer.evaluate.evaluate(run, data, "val")

Import the modules by name; `trainer` itself loads nothing.
"""
