"""The command `cola watch`."""

from __future__ import annotations

import json
import threading
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from cola.terminal import say, waiting
from cola.terminal_tables import wide_console
from orchestration.cli.options import (
    AsJson,
    Overrides,
    Scale,
    StudyOutput,
    SweepOverrides,
    with_output,
)
from orchestration.cli.things import check_is_of_study, is_sweep, study_of
from orchestration.driver.signals import handle_signals, stop_once
from orchestration.planning.catalog import output_of, own_study
from orchestration.watch.server import Pictures, Watch, WatchHandler
from orchestration.watch.study import StudyWatch
from orchestration.web.access_token import WATCH_TOKEN, AccessToken, access_token
from orchestration.web.local_server import LocalServer
from sweeps.space.catalog import own_sweep
from sweeps.sweep_cli import planner_of
from sweeps.views.watch import SweepWatch

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.command()
def watch(
    context: typer.Context,
    thing: Annotated[
        str,
        typer.Argument(
            metavar="STUDY|SWEEP",
            help="A shipped study or sweep, a YAML file, or a name of the output folder.",
        ),
    ],
    settings: Overrides = None,
    *,
    scale: Scale = None,
    sweep_settings: SweepOverrides = None,
    output: StudyOutput = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one.")] = 0,
    token_file: Annotated[
        Path | None,
        typer.Option(
            help="A file, which no other user may read, with the token that the page asks for "
            f"(default: the variable {WATCH_TOKEN}, or a new one, which is part of the address)."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show a study or sweep as a page on loopback that follows its files, until interrupted.

    It needs the output folder alone: of a study on a cluster, a folder that this machine sees too.
    Other machines reach the page through `ssh -L`.
    """
    token = access_token(token_file, WATCH_TOKEN)
    given = with_output(settings, output)
    with LocalServer(port) as server:
        with waiting(f"reading {thing}"):
            watched = watch_of(
                context.obj, thing, given, scale=scale, sweep_settings=sweep_settings
            )
            pictures = Pictures(watched)
            pictures.latest()  # what cannot be read is said here
        show_start(server.url, token, as_json=as_json)
        stop = threading.Event()
        with handle_signals(stop_once(stop.is_set, stop.set)):
            server.serve(partial(WatchHandler, pictures, token), stop)


def watch_of(
    services: Any,
    thing: str,
    settings: list[str],
    *,
    scale: str | None,
    sweep_settings: list[str] | None,
) -> Watch:
    """What follows the study or sweep of this name or file; a study's name comes first.

    Raises:
        ColaError: there is neither, it is invalid, or its files cannot be read.
    """
    is_own_study = own_study(thing, output_of(settings)) is not None
    is_own_sweep = not is_own_study and own_sweep(thing, settings)[0] != thing
    if is_own_sweep or is_sweep(services, thing):
        planner = planner_of(thing, scale, sweep_settings=sweep_settings, settings=settings)
        return SweepWatch(planner)
    check_is_of_study(thing, scale, sweep_settings or [])
    return StudyWatch(study_of(services, thing, settings))


def show_start(url: str, token: AccessToken, *, as_json: bool) -> None:
    """Print where the page is, with the token that it needs where that was made here."""
    # Behind the #, a browser keeps it to itself: it is in no request's address, and in no log.
    address = f"{url}/" if token.shown is None else f"{url}/#token={token.shown}"
    if as_json:
        typer.echo(json.dumps({"url": f"{url}/", "token": token.shown, "page": address}))
        return
    typer.echo(address)  # as it is: a browser gets it by copying or a click
    if token.shown is None:
        say(wide_console(), f"The page asks for the token that {WATCH_TOKEN} or --token-file has.")
    say(wide_console(), "Ctrl-C ends the page; runs go on without it.")
