"""Training one run: model, input, loop, checkpoints, validation and logs."""
