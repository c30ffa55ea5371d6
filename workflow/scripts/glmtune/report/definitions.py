"""The section that shows the same answers by every public definition of BLEU-4 and ROUGE."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from glmtune.metrics.protocols import PROTOCOLS
from glmtune.report.contents import COMPARED, Report, Run
from glmtune.report.markdown import plain, table
from glmtune.report.tables import NO_BREAK, NOTHING, digits


def definitions(report: Report) -> str:
    """A column a definition; one that gives the same numbers as another has none of its own."""
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
        + (
            f" (here the same numbers as {_protocol_title(same_as[name])})"
            if name in same_as
            else ""
        )
        for name, each in PROTOCOLS.items()
    ]
    headline = PROTOCOLS[report.protocol]
    return f"""## The same answers by other definitions

Public code computes different numbers and calls them all BLEU-4 and ROUGE. The scores above are
those of **{plain(headline.title)}** (`protocol: {report.protocol}`){_how_decoded(report)}.
Here each cell is
{" / ".join(COMPARED.values())} of the same answers by another definition: compare within a column,
never between two. [docs/metrics.md](../docs/metrics.md) holds the definitions side by side.

{table(header, rows, text_columns=2)}

In a few words:

{chr(10).join(differ)}

\\* Its published numbers are of answers decoded in its own way: set `protocol:` to compare with
those."""


def _how_decoded(report: Report) -> str:
    """Example: ": answers decoded greedily, references whole"; "" if the parameters do not say."""
    protocol = PROTOCOLS[report.protocol]
    decoding = {**report.params.generation, **(protocol.decoding or {})}
    if "do_sample" not in decoding:
        return ""
    how = "decoded greedily"
    if decoding["do_sample"]:
        how = f"sampled with top-p {decoding['top_p']} and temperature {decoding['temperature']}"
    cut = f"cut at {protocol.reference_tokens} tokens" if protocol.reference_tokens else "whole"
    return f": answers {how}, references {cut}"


def _protocol_title(name: str) -> str:
    own_decoding = PROTOCOLS[name].decoding is not None
    return plain(PROTOCOLS[name].title) + ("\\*" if own_decoding else "")


def _protocol_column(report: Report, protocol: str) -> list[str]:
    """A cell an entry, e.g. "57.11 / 67.77": means over seeds."""
    shown = [_formatted_means(report, protocol, score) for score in COMPARED]
    return [f"{NO_BREAK}/{NO_BREAK}".join(cell) for cell in zip(*shown, strict=True)]


def _formatted_means(report: Report, protocol: str, score: str) -> list[str]:
    values = [entry.numbers(_protocol_score(protocol, score)) for entry in report.entries]
    show = digits([value for each in values for value in each])
    return [show(statistics.fmean(each)) if each else NOTHING for each in values]


def _protocol_score(protocol: str, score: str) -> Callable[[Run], float | None]:
    return lambda run: run.scores["protocols"][protocol][score]
