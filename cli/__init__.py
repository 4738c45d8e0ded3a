"""Command lines: options, checks, errors and signals."""
