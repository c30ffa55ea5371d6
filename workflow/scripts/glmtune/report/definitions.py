"""The section that scores the same answers under every public definition of BLEU-4 and ROUGE."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from glmtune.metrics.protocols import PROTOCOLS
from glmtune.report.contents import COMPARED, Report, Run
from glmtune.report.markdown import plain, table
from glmtune.report.tables import NO_BREAK, NOTHING, digits


def definitions(report: Report) -> str:
    """One column per definition; definitions that give the same numbers share a column."""
    columns: dict[tuple[str, ...], list[str]] = {}
    for name in PROTOCOLS:
        columns.setdefault(tuple(_protocol_column(report, name)), []).append(name)
    same_as = {name: names[0] for names in columns.values() for name in names[1:]}
    header = ["Model", "Method", *(_protocol_title(names[0]) for names in columns.values())]
    rows = [
        [entry.first.model, entry.label, *cells]
        for entry, *cells in zip(report.entries, *columns, strict=True)
    ]
    differ = [
        f"- {_protocol_title(name)}: {plain(each.differs)}"
        + (f" (same numbers here as {_protocol_title(same_as[name])})" if name in same_as else "")
        for name, each in PROTOCOLS.items()
    ]
    headline = PROTOCOLS[report.protocol]
    return f"""## The same answers under other definitions

Public code computes different numbers under the names BLEU-4 and ROUGE. The scores above follow
**{plain(headline.title)}** (`protocol: {report.protocol}`){_how_decoded(report)}.
Each cell below is
{" / ".join(COMPARED.values())} of the same answers under another definition: compare scores within
a column, never across columns. [docs/metrics.md](../docs/metrics.md) compares the definitions in
detail.

{table(header, rows, text_columns=2)}

In brief:

{chr(10).join(differ)}

\\* Its published scores are for answers decoded differently: set `protocol:` to compare with
them."""


def _how_decoded(report: Report) -> str:
    """Example: ": answers decoded greedily, full references"; "" if unknown."""
    protocol = PROTOCOLS[report.protocol]
    decoding = {**report.params.generation, **(protocol.decoding or {})}
    if "do_sample" not in decoding:
        return ""
    how = "decoded greedily"
    if decoding["do_sample"]:
        how = f"sampled with top-p {decoding['top_p']} and temperature {decoding['temperature']}"
    limit = protocol.reference_tokens
    references = f"references truncated to {limit} tokens" if limit else "full references"
    return f": answers {how}, {references}"


def _protocol_title(name: str) -> str:
    own_decoding = PROTOCOLS[name].decoding is not None
    return plain(PROTOCOLS[name].title) + ("\\*" if own_decoding else "")


def _protocol_column(report: Report, protocol: str) -> list[str]:
    """One cell per entry, e.g. "57.11 / 67.77": means over seeds."""
    shown = [_formatted_means(report, protocol, score) for score in COMPARED]
    return [f"{NO_BREAK}/{NO_BREAK}".join(cell) for cell in zip(*shown, strict=True)]


def _formatted_means(report: Report, protocol: str, score: str) -> list[str]:
    values = [entry.numbers(_protocol_score(protocol, score)) for entry in report.entries]
    show = digits([value for each in values for value in each])
    return [show(statistics.fmean(each)) if each else NOTHING for each in values]


def _protocol_score(protocol: str, score: str) -> Callable[[Run], float | None]:
    return lambda run: run.scores["protocols"][protocol][score]
