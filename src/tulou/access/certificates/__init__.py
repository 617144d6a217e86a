"""Certificates of devices (X.509): the authorities that vouch for them, and the gateway's way to tell who a client is.

`x509.py` reads and makes them and does no I/O, `service.py` has the operations, `door.py` is the gateway's side.
"""
