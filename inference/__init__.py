"""Prediction and ensembles."""
