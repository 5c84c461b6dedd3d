"""Servers: limits, handshakes, errors, the log, events, draining, and where contexts come from."""
