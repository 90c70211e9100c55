"""Arm against arm, each at its own best and at equal utility, from the files of finished runs."""
