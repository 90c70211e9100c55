"""Attacks: `attack(view, knowledge) -> guesses`; the auditor, who holds the secrets, grades them.

`true_prefix` is scored by teacher forcing (`scoring`, `extraction`, `phi`), which gives the same
verdicts as generating; `own_prefix` generates. A new attack is one file and one line in `bench`.
"""
