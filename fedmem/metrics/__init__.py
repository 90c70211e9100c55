"""Figures from saved scores: pure functions, no model needed."""
