"""What an organisation may use: devices, and messages a second.

`meters.py` counts messages at a door and does no I/O, `service.py` has the operations and counts devices.
"""
