"""Search spaces: hyperparameters, named spaces, and their translation into training configurations."""
