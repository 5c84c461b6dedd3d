"""The registry of IANA's numbers, compared with what OpenSSL and Python know of it."""

from __future__ import annotations

import ssl

from trio_tlsbio._core.iana import Alert, ContentType, HandshakeType
from trio_tlsbio._core.words import ALERTS


def test_alerts_are_those_that_python_knows() -> None:
    known = {alert.value: alert.name for alert in ssl.AlertDescription}
    known[ssl.AlertDescription.ALERT_DESCRIPTION_USER_CANCELLED] = "ALERT_DESCRIPTION_USER_CANCELED"
    ours = {int(alert): f"ALERT_DESCRIPTION_{alert.name}" for alert in Alert}
    assert known.items() <= ours.items()


def test_every_alert_that_ends_a_connection_has_words() -> None:
    names = {alert.description for alert in Alert} - {"close_notify", "user_canceled"}
    assert names == ALERTS.keys() - {"user_cancelled", "unknown"}


def test_names_are_spelled_as_in_the_rfcs() -> None:
    assert HandshakeType.CLIENT_HELLO.message == "ClientHello"
    assert HandshakeType.END_OF_EARLY_DATA.message == "EndOfEarlyData"
    assert HandshakeType.FINISHED.message == "Finished"
    assert Alert.UNKNOWN_CA.description == "unknown_ca"
    assert [kind.name.lower() for kind in ContentType][-2:] == ["application_data", "heartbeat"]
