"""The dialects: the paths, fields, words and prices of each emulated provider.

Each file has one class with the members of `api.Dialect`, written from the provider's
documentation, its SDK or its source, with the date. A dialect shares no code with the
adapter of the same provider: a shared misunderstanding would pass every test.
"""
