"""Damaged conversations, fed to a TLSConnection and to OpenSSL alone: both must do the same."""
