"""Access: devices, their messages on the way in, and what becomes of them: readings, presence, alarms, the live page.

The public names of the engine; other engines use these only. They are imported when first used, because the gateway
is a process of this package that must stay small: it needs none of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tulou.access.alarms import Alarms
    from tulou.access.amending import Amender, told
    from tulou.access.deadletters import DeadLetters
    from tulou.access.directory import Directory
    from tulou.access.live import Hub
    from tulou.access.models import Bulk, NewDevice, devices
    from tulou.access.notify import Channels
    from tulou.access.redecode import Redecodes
    from tulou.access.rules.service import Rules
    from tulou.access.service import Devices
    from tulou.access.supervise import start_gateway
    from tulou.access.things import Things

_HOME = {
    "Alarms": "alarms", "Amender": "amending", "Bulk": "models", "Channels": "notify", "DeadLetters": "deadletters", "Devices": "service", "Directory": "directory",
    "Hub": "live", "NewDevice": "models", "Redecodes": "redecode", "Rules": "rules.service", "Things": "things", "devices": "models",
    "start_gateway": "supervise", "told": "amending",
}

__all__ = [
    "Alarms", "Amender", "Bulk", "Channels", "DeadLetters", "Devices", "Directory", "Hub", "NewDevice", "Redecodes", "Rules", "Things",
    "devices", "start_gateway", "told",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
