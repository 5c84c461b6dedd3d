"""Streams, clients, servers and adapters, over memory and loopback."""
