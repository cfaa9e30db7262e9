"""Nightreel's own GPU worker: one process, one GPU, one open model, behind `/v1/videos`."""
