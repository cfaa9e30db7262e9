"""The text of log lines: their form, and the masking of secrets.

A log call is `event key=value … message`. `lines` formats it for people (one line) or for
programs (one JSON object). Both pass the whole text through `masking`, traceback included,
so no caller has to think of keys or signed URLs.
"""
