"""LwM2M 1.0 and 1.1 (OMA-TS-LightweightM2M): devices that register, are observed, read, written and executed.

Law: `tlv.py`, `content.py`, `links.py`, `objects.py` and `kept.py` are pure: bytes in, values out, and for bytes that are
not what they should be one `Unreadable`. `server.py` is the part of the gateway, `service.py` what people may ask.
"""
