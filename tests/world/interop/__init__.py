"""The library talks with other TLS stacks, as their client and as their server."""
