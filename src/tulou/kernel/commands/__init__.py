"""The kernel's commands below `tulou`.

Law: what a command imports, everybody waits for who types it. A command speaks to the house over HTTP and loads no engine; what
works without a house imports it inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tulou.kernel.hookspecs import hookimpl

if TYPE_CHECKING:
    import click


@hookimpl
def commands() -> Sequence[click.Command]:
    """`tulou audit | backup | config | doctor | jobs | ledger | org | pack | restore | status | token | user`."""
    from tulou.kernel.commands.audit import audit_commands
    from tulou.kernel.commands.jobs import job_commands
    from tulou.kernel.commands.ledger import ledger_commands
    from tulou.kernel.commands.organisations import org, token, user
    from tulou.kernel.commands.packs import pack_commands
    from tulou.kernel.commands.system import (
        backup_command,
        config_group,
        doctor_command,
        restore_command,
        status_command,
    )

    return [
        org, user, token, audit_commands, job_commands, ledger_commands, pack_commands, status_command, doctor_command, config_group,
        backup_command, restore_command,
    ]
