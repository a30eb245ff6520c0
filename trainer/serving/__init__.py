"""Predicting from image files, and the graph of an exported model."""
