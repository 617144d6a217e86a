"""Certificates of devices (X.509): the authorities that vouch for them, and the gateway's way to tell who a client is.

`x509.py` reads and makes them and does no I/O, `service.py` has the operations, `door.py` is the gateway's side.
"""

USED, RENEW = "tulou.certificate.used", "tulou.certificate.renew"
"""Subjects: a gateway says which certificate was used; a device of it asks for the next one."""
RESPONSE = b"v1/devices/me/certificate/response"
"""Topic of the answer to a device that asks for its next certificate."""
