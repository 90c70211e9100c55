"""The page's small table of the released code's own measures, where a run asked for them."""

from __future__ import annotations

from collections.abc import Sequence

from fedmem.report.view import Arm, Table, level, rate

MEASURES = {"exact": "exact, encoded again", "bleu": "BLEU of characters, 0.75 or more"}


def compat(arms: Sequence[Arm]) -> list[Table]:
    """Last round: mean over the prompt lengths, and the worst; nothing where no run has them."""
    found = []
    for arm in arms:
        last = arm.rows("paper_compat", round=arm.summary["last_round"])
        for row in last:
            if row["figure"] != "mean":
                continue
            same = ("copies", "measure")
            worst = [
                r for r in last if r["figure"] == "worst" and all(r[k] == row[k] for k in same)
            ]
            at = f", at {worst[0]['prefix']} tokens" if worst and worst[0]["k"] else ""
            found.append(
                [
                    *(arm.name, level(row["copies"]), MEASURES[row["measure"]], str(row["n"])),
                    *(rate(row), f"{rate(worst[0] if worst else None)}{at}"),
                ]
            )
    head = ["run", "written", "measure", "notes", "mean over prompts", "worst prompt"]
    caption = (
        "As the paper's code counts (decoding under a frequency penalty), not to be mixed with the "
        "above. The worst prompt is chosen after the fact; of exact matches their code takes it "
        "over notes written once alone"
    )
    return [Table(caption, head, found)] if found else []
