"""A part of the simulation. ``python -m tests.slow.simulation --all`` runs all of it."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest
import trustme

from tests.slow.hostile.peer import SIDES, Arena

from .cases import Case, play, without_collection
from .flood import flood
from .invariants import violations
from .plan import all_cases, usual_cases


def _groups() -> dict[str, list[Case]]:
    groups: dict[str, list[Case]] = defaultdict(list)
    for case in usual_cases():
        groups[case.group].append(case)
    return groups


GROUPS = _groups()


@pytest.mark.sample(20)
@pytest.mark.parametrize("group", list(GROUPS))
def test_the_invariants_hold(group: str) -> None:
    found = []
    with without_collection():
        for case in GROUPS[group]:
            found += [f"{case}\n    {violation}" for violation in violations(play(case))]
    if found:
        pytest.fail(f"{len(found)} violations:\n" + "\n".join(found), pytrace=False)


def test_each_case_has_its_own_id() -> None:
    names = [str(case) for case in all_cases()]
    assert len(set(names)) == len(names)
    usual = [str(case) for case in usual_cases()]
    assert len(set(usual)) == len(usual)


@pytest.mark.parametrize("side", SIDES)
def test_data_is_received_among_requests_that_cannot_be_answered_any_more(
    ca: trustme.CA, server_cert: trustme.LeafCert, side: str, tmp_path: Path
) -> None:
    flooded = flood(Arena.make(ca, server_cert, side, "tls13", tmp_path))
    assert flooded.received == flooded.sent
    assert flooded.blind == 0
    assert flooded.most_to_send == 0
