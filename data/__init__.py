"""Images, labels, tables and folds."""
