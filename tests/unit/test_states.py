"""The transition table, and that the connection keeps to it."""

from __future__ import annotations

import pytest

from trio_tlsbio import TLSError
from trio_tlsbio._core.states import TRANSITIONS, Event, Lifecycle, Side, State


@pytest.mark.parametrize("side", list(Side))
def test_every_state_can_be_reached_or_is_not_of_this_side(side: Side) -> None:
    reached = {State.HANDSHAKE, *TRANSITIONS[side].values()}
    used = {state for state, _ in TRANSITIONS[side]}
    assert used <= reached
    assert reached == set(State)


@pytest.mark.parametrize("side", list(Side))
@pytest.mark.parametrize("state", [State.CLOSED, State.TRUNCATED, State.FAILED])
@pytest.mark.parametrize("event", list(Event))
def test_an_end_is_an_end(side: Side, state: State, event: Event) -> None:
    assert (state, event) not in TRANSITIONS[side]


@pytest.mark.parametrize("state", list(State))
def test_one_direction_does_not_end_the_other(state: State) -> None:
    assert (state, Event.CLOSE_NOTIFY_RECEIVED) not in TRANSITIONS[Side.SEND]
    assert (state, Event.CLOSE_NOTIFY_SENT) not in TRANSITIONS[Side.RECEIVE]


def test_the_table_can_not_be_changed() -> None:
    table = TRANSITIONS[Side.SEND]
    with pytest.raises(TypeError):
        table[State.OPEN, Event.FAILURE] = State.OPEN  # type: ignore[index]


def test_an_error_that_ends_a_connection_is_one_of_its_own() -> None:
    lifecycle, other, error = Lifecycle(), Lifecycle(), TLSError("broken")
    lifecycle.happened(Event.FAILURE, error)
    assert lifecycle.origin.is_source_of(error)
    assert not other.origin.is_source_of(error)
