"""The comparison report: reads a results tree once and writes a page, Markdown, CSV and SVG.

    request, contents, reading               what is asked for; the report's data; reading it
    words, blocks                            text in two languages; what a section is made of
    svg, charts, figures                     drawing; kinds of charts; the figures of this report
    tables, probe_differences                rows per model and method; tests of forgetting
    conclusions                              the verdict in words, by rule
    overview, comparison, forgetting, …      sections; `sections.SECTIONS` sets their order
    markdown, markup, page                   blocks as Markdown and as HTML (page.css, *.js)
    writing                                  all files

Knows nothing about how scores or checkpoints are made.
"""
