"""What lies on disk: runs, checkpoints and locks."""
