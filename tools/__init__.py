"""The other commands: python -m tools NAME. Each module has a function run, which takes the command's config."""
