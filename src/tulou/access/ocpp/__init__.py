"""Charging stations of OCPP 1.6J and 2.0.1: the house is their central system (CSMS).

Law: what a charging station says in one message is read and answered by `protocols/ocpp.py`, which is pure; `door.py`
carries it at the gateway; whose card may charge and what number a transaction has, the house decides (`service.py`).
`schemas.py` is the only place that reads the standard's schemas.
"""

ASK = "tulou.charging.ask"
"""Subject: a gateway asks the house for a transaction's number and place, and whether a card may charge."""
