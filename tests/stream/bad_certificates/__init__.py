"""Bad certificates, on both sides: what is said, and to whom."""
