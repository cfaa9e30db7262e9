"""Answers of commands as people and programs read them.

Each view has two forms: rich text for the terminal (`shown`, `*_table`) and plain values for
`--json` (`plain`). `plan`, `doubts`, `expiring` and `progress` are views; `amounts`,
`times` and `terminal_table` format counts, money, times and tables. Views compute nothing
that decides about money, and send no requests.
"""
