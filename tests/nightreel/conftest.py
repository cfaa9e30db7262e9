"""Fixtures for the Python API: the bench of the command line's tests."""

from tests.flows.conftest import bench, clip, emulator, make_bench, prefect

__all__ = ["bench", "clip", "emulator", "make_bench", "prefect"]
