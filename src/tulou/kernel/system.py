"""The system page, `tulou doctor`, `tulou status` and `tulou config`."""
