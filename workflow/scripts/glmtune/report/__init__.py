"""The comparison report: a results tree read once, then written as Markdown, HTML, CSV and SVG.

    contents → reading                       what a report holds; how it is read from files
             → tables                        tables with a row per model and method
             → comparison, forgetting, definitions, data_card, seeds, training_notes, what_was_run
                                             the longer sections, and parts of them
             → sections                      SECTIONS: the order in which they stand
             → figures, page, writing        the picture, the HTML page, all files

Knows nothing about how a score or a checkpoint came to be.
"""
