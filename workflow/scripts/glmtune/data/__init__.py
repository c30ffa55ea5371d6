"""Data sets: users' files read strictly, and the normalised folder that all later steps read.

    text, json_values, tables   bytes -> text -> values
    containers                  which of these a file is
    messages, formats           a value -> a row
    recognising                 which format a file has
    reading                     a user's file, checked whole
    leakage, card, splits       the normalised folder, and what its rows are like

Knows nothing about tokenizers.
"""
