"""The comparison report: reads a results tree once and writes Markdown, HTML, CSV and SVG.

    contents → reading                       the report's data; reading it from files
             → tables                        tables with a row per model and method
             → comparison, forgetting, definitions, data_card, seeds, training_notes, what_was_run
                                             the longer sections and their parts
             → sections                      SECTIONS: all sections in order
             → figures, page, writing        the loss plot, the HTML page, all files

Knows nothing about how scores or checkpoints are made.
"""
