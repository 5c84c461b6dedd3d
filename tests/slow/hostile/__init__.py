"""Peers that say whatever they like, before, in and after a handshake that is real."""
