"""What counts as one address where attempts and connections are counted.

Law: pure, and imports nothing: gateways use it too.
"""

from __future__ import annotations


def household(host: str) -> str:
    """An IPv6 address by its /64, which is what one household has; others as they are."""
    return ":".join(host.split(":")[:4]) if host.count(":") > 1 and not host.startswith("::ffff:") else host
