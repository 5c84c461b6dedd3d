"""One TLS connection as a Trio stream."""
