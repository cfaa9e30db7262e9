"""When and where it runs: Prefect flows, settings, and the command line."""
