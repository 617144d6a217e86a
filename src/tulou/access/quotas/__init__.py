"""What an organisation may use: devices, messages a second, stored readings.

`meters.py` counts messages at a door and does no I/O, `service.py` has the operations and counts devices, `counting.py` readings.
"""
