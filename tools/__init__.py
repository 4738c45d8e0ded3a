"""The secondary commands: python -m tools NAME"""
