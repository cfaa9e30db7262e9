"""The engine that makes clips, with its lanes, providers and batches."""
