"""`nightproof audit …`: the verbs on the audit log, gathered from the modules that hold them."""

from __future__ import annotations

import click

from nightproof.cli import audit_find, audit_keep, audit_verify


@click.group()
def audit() -> None:
    """Search, show, verify, export and erase what the audit log holds."""


for _command in (*audit_find.COMMANDS, *audit_verify.COMMANDS, *audit_keep.COMMANDS):
    audit.add_command(_command)
