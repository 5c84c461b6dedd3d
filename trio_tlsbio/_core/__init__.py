"""TLS without I/O, clock or tasks: bytes in, bytes out."""
