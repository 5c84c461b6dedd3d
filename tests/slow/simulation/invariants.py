"""What must hold in each run, whatever happens in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from trio_tlsbio._stream.transport import SLICE_BYTES

from .cases import GONE, READS, SILENT, Case, Run
from .operations import FILLING

# How many seconds more than the bound are tolerated, by the clock that jumps and by the real one.
_SLACK = 0.5
_REAL_SLACK = 4.0

_CLOSE_SECONDS = 5.0
_ALERT_SECONDS = 1.0

# What a wire may hold in addition, in bytes.
_WIRE = 64 * 1024

# A forced close sends an alert if there is room for it at once: so many bytes are enough.
_ROOM_FOR_AN_ALERT = 1000

_ERRORS = {
    "TLSError",
    "PeerAlertError",
    "TruncationError",
    "HandshakeTimeoutError",
    "PostHandshakeAuthError",
}


def violations(run: Run) -> list[str]:
    """Return what is wrong in a run: for each, the name of the invariant and what was seen."""
    if run.broke is not None:
        return [f"broke: {run.broke}"]
    return [
        f"{check.__name__.replace('_', ' ')}: {what}" for check in INVARIANTS for what in check(run)
    ]


################################################################
# What was sent arrives, or the peer sees that something is missing
################################################################


def in_order(run: Run) -> Iterator[str]:
    """The received data is the start of what was committed."""
    for whose, source, target in (("our", run.ours, run.theirs), ("their", run.theirs, run.ours)):
        if not source.sent.startswith(target.received):
            yield f"{len(target.received)} bytes of {whose} {len(source.sent)} arrived changed"


def clean_end_vouches(run: Run) -> Iterator[str]:
    """After a clean end, all committed data has arrived, and no send was cut in its middle.

    Unless the caller has called send_eof() or unwrap() after such a send, and so ended on purpose.
    """
    pairs = [("our", run.ours, run.theirs)]
    if not run.case.state.options.get("https_compatible"):  # which takes any end for a clean one
        pairs.append(("their", run.theirs, run.ours))
    for whose, source, target in pairs:
        if target.end != "clean":
            continue
        if len(target.received) < len(source.sent):
            yield f"only {len(target.received)} of {whose} {len(source.sent)} bytes arrived"
        if source.is_cut and not source.said_end:
            yield f"{whose} send was cut in its middle, and nothing was sent after it"


def committed_arrives(run: Run) -> Iterator[str]:
    """If nothing is forced and the peer reads to the end, all data and a clean end arrive."""
    if not _is_promised(run):
        return
    theirs = run.theirs
    if len(theirs.received) < len(run.ours.sent):
        yield f"{len(theirs.received)} of {len(run.ours.sent)} bytes; then {_kind(theirs.end)}"
    elif not (run.case.state.is_bad or run.ours.is_cut is not False or theirs.end == "clean"):
        yield f"all arrived, but no clean end: {_kind(theirs.end)}"


def _is_promised(run: Run) -> bool:
    case = run.case
    state, operation, peer = case.state, case.operation, case.peer_operation
    return (
        case.peer != GONE
        and not (peer is not None and peer.closes)
        and state.name != "handshake timed out"
        and not _is_unsafe(run)
        # Closing at once, or while the peer does not read, may lose data: nothing can send it.
        and not (
            operation.closes and (case.peer == SILENT or operation.is_forced or run.was_cancelled)
        )
    )


def _is_unsafe(run: Run) -> bool:
    """Whether sending may have broken: a send was cancelled, and the stream doesn't count."""
    case = run.case
    state = case.state
    return case.transport == "plain" and (
        state.has_leftover
        or state.busy == "send"
        or run.was_cancelled
        or case.operation.many
        or run.outcome.how == "blocked"
        or state.name == "handshake"
        or (state.is_bad and case.capacity < _ROOM_FOR_AN_ALERT)  # the alert takes too long
    )


def leftover_goes_out(run: Run) -> Iterator[str]:
    """Each operation first sends what a cancelled send has left. No other send is needed."""
    if (
        run.case.puts_out_leftover
        and not _is_unsafe(run)
        and run.arrived_after < run.committed_after
    ):
        yield f"{run.arrived_after} of {run.committed_after} bytes"


################################################################
# Alerts, and the end of the transport
################################################################


def alert_arrives(run: Run) -> Iterator[str]:
    """Whichever operation finds the bad record, a peer that reads gets our alert."""
    case = run.case
    state, operation = case.state, case.operation
    if (
        not state.is_bad
        or case.peer not in {READS, SILENT}
        or _is_unsafe(run)
        or operation.name == "abort"  # which sends nothing on purpose
    ):
        return
    is_hasty = operation.is_forced or run.was_cancelled or case.peer == SILENT
    if (operation.closes and is_hasty) and (
        case.capacity < _ROOM_FOR_AN_ALERT
        or state.has_leftover
        or case.transport in {"pump", "plain"}  # nothing gets onto the wire at once
    ):
        return
    if not state.must_see and not run.ours.ends and run.theirs.end == "clean":
        return  # our close_notify was sent before the record was found: RFC 9846 section 6.1
    if run.ours.is_cut is not False and not run.ours.ends:
        return  # a close without a close_notify need not decrypt what has arrived
    if _kind(run.theirs.end) != "PeerAlertError":
        yield f"the peer saw {_kind(run.theirs.end)}"


def alert_is_raised(run: Run) -> Iterator[str]:
    """If the peer's alert has arrived, no method reports the end of the transport instead."""
    if not run.case.state.name.startswith("alert"):
        return
    # Receiving from a plain stream means waiting, which a sender doesn't do.
    can_look = run.case.transport not in {"pump", "plain"}
    if can_look and run.outcome.raised in _ERRORS - {"PeerAlertError"}:
        yield run.outcome.how


def end_is_told(run: Run) -> Iterator[str]:
    """Each receive reports how the transport ended. A reset is never a clean end."""
    case = run.case
    for how in run.ours.ends if case.state.gone else ():
        if _kind(how) not in case.state.gone:
            yield f"receiving ended with {how}"
    if case.state.gone and not case.operation.closes and not run.ours.ends:
        yield "receiving never ended"


def operation_is_content(run: Run) -> Iterator[str]:
    """The operation itself saw nothing wrong: a loop ends after a reset, and a forced close
    leaves nothing open.
    """
    if run.outcome.note is not None:
        yield run.outcome.note


def _kind(end: str | None) -> str:
    return "no end" if end is None else end.split(":")[0]


################################################################
# Time, memory, and what stays
################################################################


def in_time(run: Run) -> Iterator[str]:
    """Nothing takes longer than its bound, which is nothing at all if the peer cooperates."""
    case, outcome = run.case, run.outcome
    slack = _SLACK if case.is_in_memory else _REAL_SLACK
    most = _most_seconds(case)
    if outcome.how == "blocked":
        if most is not None:
            yield "it never returned"
    elif most is not None and outcome.seconds > most + slack:
        yield f"it took {outcome.seconds:g} s"
    if _peer_took_too_long(run, slack):
        yield f"the peer's operation took {run.peer_outcome.seconds:g} s"
    for whose, ledger in (("our", run.ours), ("their", run.theirs)):
        if (ledger.close_seconds or 0) > slack and not case.operation.closes:
            yield f"{whose} close afterwards took {ledger.close_seconds:g} s"
    if not run.peer_has_ended:
        yield "the peer never came to its end"


def _peer_took_too_long(run: Run, slack: float) -> bool:
    peer, outcome = run.case.peer_operation, run.peer_outcome
    if peer is None:
        return False
    if run.case.operation.reads and peer.reads and not peer.needs_arrival:
        return outcome.how == "blocked" or outcome.seconds > slack
    return peer.closes and outcome.seconds > _CLOSE_SECONDS + slack


def _most_seconds(case: Case) -> float | None:
    """Return how long the operation may take; None if it may wait for the peer forever."""
    state, operation, peer = case.state, case.operation, case.peer_operation
    if (
        operation.is_forced
        or operation.is_nowait
        or operation.name == "fill by cancelled sends"
        or state.name == "handshake timed out"
    ):
        return 0
    if case.peer == SILENT:
        return _most_seconds_in_silence(case)
    if (
        (operation.needs_arrival and not state.has_arrived)
        # The peer's leftover may never arrive, since its sending is broken.
        or (case.transport == "plain" and state.has_leftover)
        # Both may send without reading.
        or (peer is not None and peer.needs_room and not operation.reads)
    ):
        return None
    # A peer that is sending does not read our alert.
    return _ALERT_SECONDS if state.is_bad and peer is not None and peer.needs_room else 0


def _most_seconds_in_silence(case: Case) -> float | None:
    state, operation = case.state, case.operation
    if operation.name == "aclose":
        return _CLOSE_SECONDS
    # An operation that only sends may wait for room in the transport.
    if state.must_see and operation.receives and not operation.asks_client:
        return _ALERT_SECONDS
    return None


def nothing_stays_open(run: Run) -> Iterator[str]:
    """After both ends were closed, their transports are closed."""
    if run.still_open:
        yield f"open: {', '.join(run.still_open)}"


def nothing_stays_alive(run: Run) -> Iterator[str]:
    """No object is kept alive by a cycle."""
    if run.still_alive:
        yield f"alive: {', '.join(sorted(run.still_alive))}"


def memory_is_bounded(run: Run) -> Iterator[str]:
    """While the peer stalls, no more than a slice of plaintext is held."""
    case = run.case
    taken = run.committed_after - run.committed_before
    if (
        case.peer == SILENT
        and case.is_in_memory
        and case.operation.name.startswith("fill")
        and taken > SLICE_BYTES + FILLING + _WIRE
    ):
        yield f"{taken} bytes were taken"


################################################################
# What is raised
################################################################


def raised_as_documented(run: Run) -> Iterator[str]:
    """A healthy connection to a cooperative peer raises errors of misuse alone."""
    case, raised = run.case, run.outcome.raised
    state, operation = case.state, case.operation
    if raised is None:
        return
    allowed = set()
    if (state.busy == "send" and operation.sends) or (
        state.busy == "receive" and operation.receives
    ):
        allowed.add("BusyResourceError")
    if state.is_half_closed and operation.sends:
        allowed.add("ClosedResourceError")
    if (
        not state.is_healthy
        or case.peer not in {READS, SILENT}
        or _is_unsafe(run)
        or (operation.name == "unwrap" and state.has_arrived)
        or operation.asks_client
    ):
        allowed |= _ERRORS | {"ClosedResourceError"}
    if raised not in allowed:
        yield run.outcome.how


INVARIANTS: tuple[Callable[[Run], Iterator[str]], ...] = (
    in_order,
    clean_end_vouches,
    committed_arrives,
    leftover_goes_out,
    alert_arrives,
    alert_is_raised,
    end_is_told,
    operation_is_content,
    in_time,
    nothing_stays_open,
    nothing_stays_alive,
    memory_is_bounded,
    raised_as_documented,
)
