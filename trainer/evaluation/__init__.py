"""Measuring predictions: metrics, operating points and the shift suite."""
