"""LoRaWAN by way of a network server: the events of ChirpStack v4, which its HTTP integration posts, and downlinks to its MQTT integration.

Law: `events.py` and `downlinks.py` are the codec, pure; `service.py` takes events and answers when they are durable; `servers.py` says which
server an organisation has; `door.py`, in the gateway, hands commands on to it by `link.py`; `routes.py` turns requests into calls.
"""
