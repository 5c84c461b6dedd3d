"""What encryption takes without any transport, and without Python."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

from _peers import RECORD_BYTES, Ours
from _processes import HOST, answer, make_context
from _workloads import Measured

import trio_tlsbio

SIZES = {"64 B": 64, "16 KiB": 16 * 1024}

Transfer = Callable[[bytes], None]


def _bare_pair(client_context: ssl.SSLContext, server_context: ssl.SSLContext) -> Transfer:
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(back, there, server_hostname=HOST)
    server = server_context.wrap_bio(there, back, server_side=True)
    is_done = {client: False, server: False}
    while not all(is_done.values()):
        for end in is_done:
            try:
                end.do_handshake()
                is_done[end] = True
            except ssl.SSLWantReadError:
                pass

    def transfer(data: bytes) -> None:
        client.write(data)
        received = server.read(RECORD_BYTES)
        assert len(received) == len(data)

    return transfer


def _our_pair(client_context: ssl.SSLContext, server_context: ssl.SSLContext) -> Transfer:
    client = trio_tlsbio.TLSConnection(client_context, server_hostname=HOST)
    server = trio_tlsbio.TLSConnection(server_context, server_side=True)
    while not (client.do_handshake() and server.do_handshake()):
        server.feed(client.data_to_send())
        server.do_handshake()
        client.feed(server.data_to_send())

    def transfer(data: bytes) -> None:
        client.send(data)
        server.feed(client.data_to_send())
        received = server.receive()
        assert received is not None
        assert len(received) == len(data)

    return transfer


def _time_openssl(size: int) -> float:
    """Return the seconds for encrypting and decrypting a message."""
    seconds = 0.0
    for direction in ([], ["-decrypt"]):
        command = ["openssl", "speed", "-mr", "-seconds", "1", "-bytes", str(size)]
        command += [*direction, "-evp", "aes-256-gcm"]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        # +F:25:AES-256-GCM:84265534.69, the last being bytes a second
        (line,) = (line for line in output.splitlines() if line.startswith("+F:"))
        seconds += size / float(line.rsplit(":", 1)[1])
    return seconds


def _time_transfer(transfer: Transfer, count: int, size: int) -> float:
    data = bytes(size)
    transfer(data)
    begin = time.process_time()
    for _ in range(count):
        transfer(data)
    return (time.process_time() - begin) / count


NAMES = (Ours.name, "bare SSLObject pair", "openssl speed")


def names() -> list[str]:
    """Return what there is to measure."""
    return [name for name in NAMES if name != NAMES[2] or shutil.which("openssl")]


def be_floor(pipe: Connection, version: ssl.TLSVersion, folder: Path) -> None:
    """Measure what is asked for."""
    contexts = [make_context(folder, version, server_side=server) for server in (False, True)]
    pairs = {NAMES[0]: _our_pair(*contexts), NAMES[1]: _bare_pair(*contexts)}

    def run(name: str, count: int, size: int) -> Measured:
        timed = partial(_time_transfer, pairs[name], count) if name in pairs else _time_openssl
        seconds = timed(size)
        return {
            ("both ends, CPU", "µs per message"): seconds * 1e6,
            ("both ends, CPU", "s per GB"): seconds / size * 1e9,
        }

    answer(pipe, {"run": run})
