"""The command line: one module for each command.

`main` builds the typer application. `command.command` wraps each command: it adds the
logging options, turns errors into exit codes, and masks secrets in tracebacks. `terminal`
has the shared options and writes messages to stderr and JSON to stdout. `logs` configures
logging. `batch_flow` runs the batch flow for `run`, `demo` and `watch`, and
`prefect_server` decides on which Prefect server a run is shown.

A command reads its settings, calls a flow or a function of `tasks`, and shows the answer.
Computing the answer and showing it are separate (`check`, `plan`, `status`,
`reconcile`), so that the Python API returns the same values as `--json` prints.
"""
