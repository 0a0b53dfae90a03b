"""A group of commands whose modules are imported when a command is called."""

from __future__ import annotations

import importlib
from collections import UserDict
from typing import Any

from typer.core import TyperCommand, TyperGroup

from sweeps.commands import COMMANDS, Entry
from sweeps.interrupts import leaving_at_once


class LazyGroup(TyperGroup):
    """Lists commands by their entries; only the one that is called is imported."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = LoadedCommands({entry.name: entry for entry in COMMANDS})

    def list_commands(self, ctx: Any) -> list[str]:
        """Names in the order in which help shows them."""
        return list(self.commands)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """What help and completion show of a command, without its parameters; None of none."""
        entry = next((each for each in COMMANDS if each.name == cmd_name), None)
        return None if entry is None else outline(entry)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command of these arguments, imported, and the arguments that it gets."""
        name, found, rest = super().resolve_command(ctx, args)
        return name, found if name is None else self.commands[name], rest


class LoadedCommands(UserDict[str, Any]):
    """Commands by name; each takes the place of its entry when it is first taken."""

    def __getitem__(self, name: str) -> Any:
        found = self.data[name]
        if isinstance(found, Entry):
            found = self.data[name] = load(found)
        return found


def load(entry: Entry) -> Any:
    """The command itself; Ctrl-C meanwhile ends the process."""
    from typer.main import get_group

    with leaving_at_once():
        group = get_group(importlib.import_module(entry.module).app)
    command = group if entry.group else group.commands[entry.name]
    command.name, command.epilog = entry.name, examples(entry)
    return command


def outline(entry: Entry) -> TyperCommand:
    """A command's name, panel and summary."""
    return TyperCommand(
        entry.name, help=entry.summary, rich_help_panel=entry.panel, hidden=entry.hidden
    )


def examples(entry: Entry) -> str | None:
    """The examples of a command's help, one a line; None where it has none."""
    if not entry.examples:
        return None
    return "\n".join(("Examples:", *(f"  {line}" for line in entry.examples)))
