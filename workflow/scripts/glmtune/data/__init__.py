"""Data sets: strict readers of users' files, and the normalized folder for all later steps.

    text, json_values, tables   bytes -> text -> values
    containers                  which of these a file holds
    messages, formats           a value -> a row
    recognising                 detecting a file's format
    reading                     a user's file, fully checked
    held_out, mixtures          rows of a file on several sides, rows of several files
    origins                     the rows that params.yaml or flags ask for
    leakage, card, splits       the normalized folder and statistics of its rows

Knows nothing about tokenizers.
"""
