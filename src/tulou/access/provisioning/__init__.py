"""Devices that come by themselves: they show a key and secret of their type, and get their credential.

`service.py` decides, `door.py` is the gateway's side.
"""

ASK = "tulou.provision.ask"
"""Subject: a gateway hands a device's request on."""
