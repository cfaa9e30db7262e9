"""Wan 2.2 image-to-video on one device: the only package that knows torch and diffusers."""

from tasks.worker.wan.loader import devices, load

__all__ = ["devices", "load"]
