"""GB/T 28181-2016 and -2022: cameras and recorders that register by SIP. `sip`, `digest` and `manscdp` are pure, `media` is what
a media server is told, `door` is the listener; the codec of what is kept is `protocols/gb28181.py`."""
