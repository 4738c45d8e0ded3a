"""Training of folds."""
