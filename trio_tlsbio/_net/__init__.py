"""Clients and servers over TCP: connecting, listening, serving."""
