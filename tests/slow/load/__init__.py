"""A server under load, while certificates are renewed and sessions age. See ``__main__``."""
