"""What the tests of the commands share."""

from __future__ import annotations

import pytest
import trustme

from tests.commands import Files


@pytest.fixture(scope="session")
def files(
    ca: trustme.CA, server_cert: trustme.LeafCert, tmp_path_factory: pytest.TempPathFactory
) -> Files:
    folder = tmp_path_factory.mktemp("certificates")
    ca.cert_pem.write_to_path(folder / "ca.pem")
    server_cert.private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    client_cert = ca.issue_cert("client@client.example")
    client_cert.private_key_and_cert_chain_pem.write_to_path(folder / "client.pem")
    return Files(*(str(folder / name) for name in ("ca.pem", "server.pem", "client.pem")))
