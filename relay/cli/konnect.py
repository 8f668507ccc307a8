"""`konnect`: the commands about Konnect's side. Only puts them together; each is a module of its own."""

from __future__ import annotations

import typer

from relay.cli import (
    konnect_doctor,
    konnect_reconcile,
    konnect_recover,
    konnect_rotate,
    konnect_setup,
    konnect_status,
    konnect_teardown,
    konnect_verify,
)

app = typer.Typer(help="Konnect's side of it.", no_args_is_help=True, rich_markup_mode=None)
app.command("setup")(konnect_setup.setup)
app.command("status")(konnect_status.status)
app.command("doctor")(konnect_doctor.doctor)
app.command("recover")(konnect_recover.recover)
app.command("rotate")(konnect_rotate.rotate)
app.command("teardown")(konnect_teardown.teardown)
app.command("verify")(konnect_verify.verify)
app.command("reconcile")(konnect_reconcile.reconcile)
