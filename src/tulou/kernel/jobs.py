"""Jobs: long computations outside the event loop."""
