"""Finds the best way to carry a pretrained network over to your images."""
