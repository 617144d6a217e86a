"""LoRaWAN by way of a network server: the events of ChirpStack v4, which its HTTP integration posts.

Law: `events.py` is the codec, pure; `service.py` takes events and answers when they are durable; `routes.py` turns a
request into a call.
"""
