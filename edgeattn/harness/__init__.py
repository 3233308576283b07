"""The bench: parity, task accuracy, latency. It sees callables and arrays, never an engine."""
