"""Scores, intervals, comparisons and reports."""
