"""Attacks: `attack(view, knowledge) -> guesses`; the auditor, who holds the secrets, grades them.

`true_prefix` is scored by teacher forcing (`scoring`), which gives the same verdicts as generating;
`own_prefix` generates. A client's new attack is one file and one line in `audit.CLIENT_ATTACKS`.
"""
