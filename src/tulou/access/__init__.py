"""Access: devices, their messages on the way in, and what becomes of them: readings, presence, alarms, the live page.

The public names of the engine; other engines use these only.
"""

from __future__ import annotations

from tulou.access.alarms import Alarms
from tulou.access.deadletters import DeadLetters
from tulou.access.directory import Directory
from tulou.access.live import Hub
from tulou.access.models import Bulk, NewDevice, alarms, devices
from tulou.access.service import Devices
from tulou.access.supervise import start_gateway
from tulou.access.things import Things

__all__ = [
    "Alarms", "Bulk", "DeadLetters", "Devices", "Directory", "Hub", "NewDevice", "Things", "alarms", "devices",
    "start_gateway",
]
