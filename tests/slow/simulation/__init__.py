"""A simulation of two ends of a TLS connection, which finds faults that nobody thought of.

Each case brings an end (``ours``) into a state, runs one operation on it while its peer reads, is
silent, or runs an operation as well, and ends both. After each case the same invariants hold: what
was committed arrives, or the peer sees that something is missing; alerts arrive; nothing waits
longer than its bound; nothing stays open or alive.

==============  ====================================================================================
`wires`         a transport in memory with a capacity in bytes, which ends by FIN or RST as TCP does
`world`         both ends and the transport between them: memory, sockets, TLS in TLS, a pump
`states`        functions that bring an end into a state
`operations`    every method of TLSStream
`cases`         runs one case
`invariants`    what holds after each
`plan`          which cases there are, and which of them the tests run
`flood`         a peer that makes an end answer after that end's close_notify
==============  ====================================================================================

The tests run a part. ``python -m tests.slow.simulation --all`` runs all of it, and ``--only TEXT``
what has a text in its id: the transport and its capacity, the TLS version, the side, the state, the
operation, what the peer does, and the event at which the operation is cancelled.
"""
