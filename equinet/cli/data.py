"""The sub-application `equinet data`; its commands are in files of their own."""

from __future__ import annotations

from .app import App, app

data = App(name="data", help="Data sets: report what files hold, judge them.", no_args_is_help=True)
app.add_typer(data)
