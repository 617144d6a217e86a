"""Rules: what is declared of values, and the machine that decides from readings which alarms are raised and cleared."""
