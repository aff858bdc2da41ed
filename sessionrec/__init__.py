"""Training, scoring and checkpoints: everything between the models and the notebooks."""
