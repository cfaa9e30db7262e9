"""The GPU worker behind `nightreel worker`: one model on one device, served as `/v1/videos`.

Jobs
    `job_store` keeps jobs in SQLite below the state folder, so that they survive a restart.
    The same submit twice is one job; another submit with the same id is refused.

Pipeline
    `pipeline` has a thread for each stage: prepare, denoise, decode and write. While one
    clip is denoised, others are decoded and written, so that the GPU never waits.

Failures
    A failed clip ends its job with a code, and the model continues with the next. A hung
    step (`watchdog`) or a lost GPU ends the process; `supervisor` starts it again, and the
    jobs return to the queue. A job that may have killed the process runs alone.

Shutdown
    SIGTERM drains the worker: clips under way are finished and can still be downloaded, and
    queued jobs stay in the store for the next start.

Torch
    Only `wan` imports torch. The rest of the worker uses the protocol of `model_protocol`.

Nothing is imported here, because the commands must start without torch.
"""
