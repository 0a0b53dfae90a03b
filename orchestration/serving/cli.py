"""The command `cola serve-model`."""

from __future__ import annotations

import json
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cola.families.registry import definition_of
from cola.terminal import say, waiting
from cola.terminal_tables import wide_console
from orchestration.cli.options import AsJson, Output, output_folder
from orchestration.driver.signals import handle_signals, stop_once
from orchestration.web.access_token import SERVE_TOKEN, access_token
from orchestration.web.local_server import LocalServer

if TYPE_CHECKING:
    from orchestration.serving.server import Service

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.command("serve-model")
def serve_model(
    model: Annotated[
        str,
        typer.Argument(
            help="STUDY/RUN-NAME, a run key, a run's folder, or a folder that `cola export` wrote."
        ),
    ],
    output: Output = "outputs",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one.")] = 0,
    *,
    token_file: Annotated[
        Path | None,
        typer.Option(
            help=f"A file, which no other user may read, with the token that clients send "
            f"(default: the variable {SERVE_TOKEN}, or a new one, which is printed once)."
        ),
    ] = None,
    batch: Annotated[int, typer.Option(min=1, max=512, help="Texts continued at once.")] = 16,
    as_json: AsJson = False,
) -> None:
    """Serve a finished model on loopback in the form of OpenAI's completions, until interrupted.

    Other machines reach it through `ssh -L`. The token is what OpenAI's clients call the API key.
    """
    token = access_token(token_file, SERVE_TOKEN)
    root = output_folder(output)
    # A port that is taken is found before the model is loaded, which may take minutes.
    with LocalServer(port) as server:
        with waiting("loading the libraries") as following:
            from orchestration.serving.server import serve
            from orchestration.serving.start import opened_service

            following(f"loading {model}")
            service = opened_service(model, root, token, rows=batch)
        stop = threading.Event()
        show_start(service, server.url, as_json=as_json)
        handler = stop_once(stop.is_set, partial(request_stop, stop))
        try:
            with handle_signals(handler):
                serve(server, service, stop)
        except KeyboardInterrupt:  # a second one: whatever is in work is left
            return


def request_stop(stop: threading.Event) -> None:
    """End the server, and say what it waits for."""
    stop.set()
    typer.echo("stopping: a text in work ends with its next token or block; Ctrl-C again leaves "
               "at once", err=True)  # fmt: skip


def show_start(service: Service, url: str, *, as_json: bool) -> None:
    """Print where and by which token the model is reached."""
    served, shown = service.model, service.token.shown
    if as_json:
        found = {"url": f"{url}/v1", "model": served.name, "family": served.definition.name,
                 "context": served.context, "token": shown}  # fmt: skip
        typer.echo(json.dumps(found))
        return
    console = wide_console()
    label = definition_of(served.definition.name).label
    context = "any context" if served.context is None else f"a context of {served.context} tokens"
    say(console, f"{served.name} ({label}, {context}) on {url}/v1")
    if shown is None:
        say(console, f"token: the one that {SERVE_TOKEN} or --token-file has")
    else:
        # As it is: a client gets it by copying.
        typer.echo(f"token: {shown}")
        say(console, "OpenAI's clients call it the API key; it is printed this once")
