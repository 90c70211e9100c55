"""Utility: what the model is still good for, on questions nobody trained on."""
