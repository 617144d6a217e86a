"""Updates of devices over the air: firmware packages, and their staged roll-out to devices.

Law: a device gets a firmware when its shadow says so (`fw_title`, `fw_version`, ...), by the convention that integrators
know, and gets that one only. `engine.py` decides and does nothing else; `rollouts.py` does what it decides; `firmware.py`
keeps and hands out the packages; `door.py` carries their chunks at the MQTT door.
"""
