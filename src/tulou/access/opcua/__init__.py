"""OPC UA (IEC 62541) by subscription: the house is the client of servers in plants and control rooms.

Law: `kept.py` is pure: what is kept of a notification, and its values. `link.py` is one connection, on the library
`asyncua` (an extra, imported when a device has a server); `door.py` the part of the gateway; `service.py` what people may
set and ask.
"""
