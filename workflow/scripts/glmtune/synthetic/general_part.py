"""General questions and answers to mix into training data, so that tuning forgets less.

They are the facts of pre-training that the forgetting probe neither asks about nor has as an answer
(`glmtune.synthetic.general_qa`): a model that still answers the probe has kept what it knew and not
learned the answers here. All are known to miniatures, because a mixture is to remind and not to
teach: with questions that are new to them they kept less, and scored lower.
"""

from __future__ import annotations

from glmtune.synthetic.general_qa import facts, probe_rows


def general_rows() -> list[dict[str, str]]:
    """Rows {"content", "summary"}: every phrasing of every fact, in a fixed order."""
    probed = {row["summary"] for row in probe_rows()}
    return [
        {"content": question, "summary": fact.answer}
        for fact in facts()
        if fact.held_out is None and fact.answer not in probed
        for question in fact.questions
    ]
