"""The command line: `nightreel demo | check | plan | run | watch | status | …`.

What a program reads goes to stdout; what a person watches goes to stderr.
"""

import typer

from flows.commands import check as check_command
from flows.commands import config as inforce
from flows.commands import demo as demo_command
from flows.commands import (
    emulate,
    listen,
    pause,
    reconcile,
    repair,
    shard,
    status,
    verify,
    watch,
    worker,
)
from flows.commands import lanes as surveying
from flows.commands import plan as plan_command
from flows.commands import run as run_command
from flows.commands.command import command, options
from flows.commands.terminal import replace_unknown_characters
from flows.config import settings as settings_of
from flows.logs.streams import outlive_readers

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.callback()(options)


def main() -> None:
    """The console script."""
    outlive_readers()
    replace_unknown_characters()
    settings_of.calm_prefect()
    app()


app.command()(command(check_command.check))
app.command()(command(plan_command.plan))
app.command()(command(status.status))
app.command()(command(surveying.lanes))
app.command()(command(listen.listen, service=True))
app.command()(command(reconcile.reconcile))
app.command()(command(repair.repair))
app.command()(command(verify.verify))
app.command()(command(watch.watch))
app.add_typer(inforce.app, name="config")
app.command()(command(pause.pause))
app.command()(command(pause.resume))
app.command()(command(emulate.emulate, service=True))
app.command()(command(shard.shard))
app.command()(command(worker.worker, service=True))
app.command()(command(run_command.run))
app.command()(command(demo_command.demo))
