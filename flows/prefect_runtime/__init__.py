"""Prefect runtime."""
