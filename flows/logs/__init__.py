"""The text of log lines: their form, and what never stands in one."""
