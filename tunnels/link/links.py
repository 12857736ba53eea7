"""All neighbours of a node: indices, handshakes, cells in and cells out (SPEC 4).  Floor 3: sans-IO.

HOT PATH.  `receive` takes what one system call brought, splits it into runs of one index, decrypts all header blocks of
a run in one AES call, and hands each cell to the circuit end behind its id.  No object is made for a cell that is
passed on.

  cost    0.35 us a cell before the layer (blocks cut out and decrypted at once, unpacked, looked up), and 2 us a run: a
          single cell costs six times as much here (python -m bench relay: peak and spread)
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from struct import Struct
from typing import Final

from tunnels.crypto import sodium
from tunnels.crypto.kem import Kem
from tunnels.crypto.sodium import Buffer
from tunnels.crypto.x25519 import KeyPair
from tunnels.errors import LocalError, RemoteError
from tunnels.fair import FairQueue, FairTable
from tunnels.ids import Address, CircuitId, Drop, Index, Rng
from tunnels.link.datagrams import Gate, build_initiation, build_response, mac1_of, open_cookie_reply
from tunnels.link.handshake import Initiation, Initiator, SessionKeys, read_initiation, tai64n
from tunnels.link.link import Link, Move, Run
from tunnels.link.outbox import TrainPool
from tunnels.link.responder import Responder, prefix_of
from tunnels.link.session import SCRATCH_SIZE, Session
from tunnels.params import (
    BATCH_CELLS,
    BODY_OFFSET,
    BODY_SIZE,
    CELL_SIZE,
    CHALLENGE_GRACE,
    CHALLENGE_INTERVAL,
    CHALLENGE_LIFETIME,
    COOKIE_LIFETIME,
    HANDSHAKE_TIMEOUT,
    HEADER_SIZE,
    INDEX_SIZE,
    LINK_IDLE,
    LINK_PROBE_INTERVAL,
    LINK_PROBES,
    LINK_SILENCE,
    LOST_NOTICE_INTERVAL,
    MAX_DIALLED,
    MAX_LINK_PENDING,
    MAX_LINKS,
    MAX_PENDING_SESSIONS,
    MAX_RAW_DATAGRAMS,
    PATH_TOKEN_SIZE,
    PENDING_SESSION,
    PREVIOUS_SESSION,
    REKEY_AFTER_CELLS,
    REKEY_AFTER_TIME,
    REKEY_JITTER,
    RETRY_DELAYS,
    SESSION_LIFETIME,
    SESSION_MAX_CELLS,
)
from tunnels.timers import Timer, Timers
from tunnels.wire import link_messages as lm
from tunnels.wire.cell import COUNTER_SHIFT, HEADERS, LOW_BITS, SHIFTED_LIMIT, ZEROS, Command

_LAYERED: Final = (int(Command.RELAY), int(Command.EARLY))
"""A tuple of plain numbers: a look-up in a set of enum members costs four times as much."""


@lru_cache(maxsize=BATCH_CELLS)
def _cut(count: int) -> Callable[[Buffer], tuple[bytes, ...]]:
    """Takes `count` cells apart: index and header block of the first, of the second, ...

    One call of C code for a train; 0.05 us a cell, a fifth of what slices cost.
    """
    return Struct(f"{INDEX_SIZE}s{HEADER_SIZE}s{BODY_SIZE}x" * count).unpack


Handler = Callable[[Link, lm.LinkMessage, float], None]
"""What a role does with a sealed command: (link, message, now)."""


@dataclass(slots=True)
class _Try:
    """One initiation on its way, or one REKEY."""

    link: Link
    initiator: Initiator
    index: Index
    mac1: bytes
    gate: Gate | None
    """None for a REKEY, whose answer travels sealed."""


@dataclass(slots=True)
class _Dial:
    """A link we are opening, or a session we are renewing: its tries so far."""

    began: float
    tries: list[_Try]
    addresses: list[Address]
    """Where the initiations go.  Several descriptors may name one link key, and only its owner can answer: without the
    others, whoever claims it first would keep us from him."""
    timer: Timer | None = None
    cookie_used: bool = False

    def takes(self, address: Address) -> bool:
        """Look at `address` too; False when that is nothing new, or one too many."""
        if address in self.addresses or len(self.addresses) >= MAX_DIALLED:
            return False
        self.addresses.append(address)
        return True


class Links:
    """The links of one node.

    Args:
        static: the link key of a relay, which answers initiations; None for a node that only dials, with a throw-away
            static for each neighbour.
        epoch: wall clock minus `now`, for timestamps, in seconds.
        handlers: what to do with CREATE and other commands that are not the links' own.
        drops: where to count what is dropped.
    """

    def __init__(self, *, static: KeyPair | None, network_id: bytes, rng: Rng, kem: Kem, timers: Timers, now: float,
                 epoch: float, handlers: Mapping[Command, Handler], drops: Counter[Drop]) -> None:  # fmt: skip
        self._static = static
        self._network_id = network_id
        self._rng = rng
        self._kem = kem
        self._timers = timers
        self._epoch = epoch
        self._handlers: dict[int, Handler] = {}
        own: dict[Command, Handler] = {
            Command.CREATED: self._on_created,
            Command.DESTROY: self._on_destroy,
            Command.PADDING: self._on_padding,
            Command.PATH_CHALLENGE: self._on_path_challenge,
            Command.PATH_RESPONSE: lambda link, message, now: None,
            Command.REKEY: self._on_rekey,
            Command.REKEYED: self._on_rekeyed,
        }
        if both := own.keys() & handlers.keys():
            raise LocalError(f"links answer {sorted(both)} themselves")
        for command, handler in [*own.items(), *handlers.items()]:
            self._handlers[int(command)] = handler
        self.drops: Final = drops
        self.responder: Final = Responder(static, network_id, rng, now) if static else None
        self._statics: dict[bytes, tuple[KeyPair, float]] = {}
        self._links: dict[bytes, Link] = {}
        self._guests: FairTable[Link] = FairTable(MAX_LINKS)
        """Links that a neighbour opened, by its source prefix then."""
        self._rekeys: FairQueue[tuple[Link, lm.Rekey]] = FairQueue()
        """REKEYs that wait for `work`, one a link: a neighbour must not get a public-key operation for every cell."""
        self._rekeying: dict[Link, None] = {}
        self._sessions: dict[int, Session] = {}
        self._pending: OrderedDict[int, tuple[Session, float]] = OrderedDict()
        self._pending_timer: Timer | None = None
        self._tries: dict[int, _Try] = {}
        self._dials: dict[Link, _Dial] = {}
        self._dirty: dict[Session, None] = {}
        self._raw: list[tuple[bytes, Address]] = []
        self._pool = TrainPool()
        self._scratch = bytearray(SCRATCH_SIZE)
        headers = bytearray(SCRATCH_SIZE)
        self._run = Run(headers, sodium.address_of(headers))
        self._closing = False

    # --- what others ask --------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self._links)

    def __iter__(self) -> Iterator[Link]:
        return iter(list(self._links.values()))

    def dial(self, remote: bytes, address: Address, now: float) -> Link:
        """The link to the relay with link key `remote`, opened when there is none."""
        if self._static is not None and remote == self._static.public:
            raise LocalError("a node does not dial itself")
        link = self._links.get(remote)
        if link is None:
            static, epoch = self._own_static(remote)
            link = Link(remote, address, static, now, self._rng, self._mark_dirty, epoch)
            self._links[remote] = link
            self._dials[link] = _Dial(now, [], [address])
            self._shake(link, now)
        elif link.current is None and (dial := self._dials.get(link)) is not None and dial.takes(address):
            self._shake(link, now)
        return link

    def close(self, link: Link, now: float) -> None:
        """Forget a neighbour; every circuit end on it is told."""
        if self._links.get(link.remote) is link:
            del self._links[link.remote]
        self._guests.discard(link)
        self._end_dial(link)
        if link.timer is not None:
            link.timer.cancel()
        for session in (link.current, link.previous, *link.pending):
            if session is not None:
                self._drop_session(session)
        for end in link.down():
            end.on_link_down(now)

    def close_all(self, now: float) -> None:
        """Forget all neighbours; what waits to be sent is dropped: drain first."""
        for link in list(self._links.values()):
            self.close(link, now)

    @property
    def waiting(self) -> int:
        """Initiations and REKEYs that wait for `work`."""
        return len(self._rekeys) + (len(self.responder.queue) if self.responder else 0)

    # --- cells in ---------------------------------------------------------------------------

    def receive(self, cells: bytearray | memoryview, sender: Address, now: float) -> None:
        """Take n * CELL_SIZE bytes that came from one sender; they are rewritten in place."""
        count, rest = divmod(len(cells), CELL_SIZE)
        if rest or not count:
            self.drops[Drop.WRONG_SIZE] += 1
            return
        run = self._run
        run.buffer, run.at, run.now = cells, sodium.address_of(cells), now
        parts = _cut(count)(cells)
        heads, blocks = parts[::2], parts[1::2]
        one_run = count == 1 or heads.count(heads[0]) == count
        start = 0
        while start < count:
            head = heads[start]
            end = count if one_run else start + 1
            while end < count and heads[end] == head:
                end += 1
            index = int.from_bytes(head)
            if (session := self._sessions.get(index)) is not None:
                self._receive_run(session, b"".join(blocks[start:end]), start, sender, now)
            else:
                for cell in range(start, end):
                    at = cell * CELL_SIZE
                    self._receive_stranger(index, bytes(cells[at : at + CELL_SIZE]), sender, now)
            start = end

    def _receive_run(self, session: Session, blocks: bytes, start: int, sender: Address, now: float) -> None:
        """Take the cells of one session from number `start` on, whose header blocks are `blocks`."""
        run, drops, link = self._run, self.drops, session.link
        session.open_headers(blocks, run.headers)
        circuits = link.circuits
        body, header, opened = start * CELL_SIZE + BODY_OFFSET, 0, False
        for circuit_id, command, counter, zeros in HEADERS(run.view[: len(blocks)]):
            if zeros != ZEROS or counter & LOW_BITS or counter >= SHIFTED_LIMIT:
                drops[Drop.BAD_HEADER] += 1
            else:
                if not opened:
                    opened = True
                    if not self._opened(session, sender, now):
                        return
                    link = session.link
                    circuits = link.circuits
                if command in _LAYERED:
                    if (circuit := circuits.get(circuit_id)) is not None:
                        circuit.on_cell(run, command, counter >> COUNTER_SHIFT, body, header)
                    else:
                        self._lost(link, circuit_id, now)
                elif circuit_id:
                    drops[Drop.BAD_HEADER] += 1
                else:
                    self._receive_sealed(session, command, counter >> COUNTER_SHIFT, body, header, sender, now)
            body += CELL_SIZE
            header += HEADER_SIZE

    def _opened(self, session: Session, sender: Address, now: float) -> bool:
        """A cell opened on `session`: its peer is alive, has our answer, and may have moved.

        Returns:
            Whether there is room for that peer.
        """
        if session.index in self._pending and not self._confirm(session, sender, now):
            return False
        link = session.link
        link.heard, link.probes = now, 0
        if session is link.current and not session.proven:
            link.prove(now + PREVIOUS_SESSION)
        if sender != link.address:
            self._challenge(session, sender, now)
        return True

    def _receive_sealed(self, session: Session, command: int, counter: int, body: int, header: int,
                        sender: Address, now: float) -> None:  # fmt: skip
        handler = self._handlers.get(command)
        if handler is None:
            self.drops[Drop.UNKNOWN_COMMAND] += 1
            return
        run, link = self._run, session.link
        text = session.open(run.buffer, run.at, body, run.headers_at + header + INDEX_SIZE, counter)
        if isinstance(text, Drop):
            self.drops[text] += 1
            return
        try:
            message = lm.decode(Command(command), text)
        except RemoteError:
            self.drops[Drop.MALFORMED] += 1
            return
        if isinstance(message, lm.PathResponse):
            self._on_path_response(link, message, sender, now)
        else:
            handler(link, message, now)

    def _lost(self, link: Link, circuit_id: int, now: float) -> None:
        """Tell the neighbour, once in a while, that a circuit it uses is gone (SPEC 7.5)."""
        self.drops[Drop.UNKNOWN_CIRCUIT] += 1
        if now >= link.lost_notice and circuit_id:
            link.lost_notice = now + LOST_NOTICE_INTERVAL
            link.send(lm.Destroy(circuit_id=None, sender_id=CircuitId(circuit_id)))

    # --- sealed commands of the link itself ---------------------------------------------------

    def _on_created(self, link: Link, message: lm.LinkMessage, now: float) -> None:
        assert isinstance(message, lm.Created)
        if (end := link.circuits.get(message.circuit_id)) is None:
            self.drops[Drop.UNKNOWN_CIRCUIT] += 1
            # Given up meanwhile: our DESTROY found the CREATE still waiting, or was lost.
            link.send(lm.Destroy(message.forward_id, None))
        else:
            end.on_created(message, now)

    def _on_destroy(self, link: Link, message: lm.LinkMessage, now: float) -> None:
        assert isinstance(message, lm.Destroy)
        if message.circuit_id is not None:
            end = link.circuits.get(message.circuit_id)
        else:
            end = link.outgoing.get(message.sender_id or 0)
        if end is None:
            self.drops[Drop.UNKNOWN_CIRCUIT] += 1
        else:
            end.on_destroy(now)

    def _on_padding(self, link: Link, message: lm.LinkMessage, now: float) -> None:
        assert isinstance(message, lm.Padding)
        if message.answer is lm.Answer.WANTED:
            link.send(lm.Padding(lm.Answer.NOT_WANTED))

    def _challenge(self, session: Session, sender: Address, now: float) -> None:
        """Ask at both addresses: whoever copies cells can answer from a third one, but cannot silence the old one."""
        link = session.link
        if (move := link.move) is not None and (
            now - move.asked < CHALLENGE_INTERVAL or (move.answered and not move.refuted)
        ):
            return
        move = Move(sender, self._rng.bytes(PATH_TOKEN_SIZE), self._rng.bytes(PATH_TOKEN_SIZE), now)
        link.move = move
        self._send_raw(session.single(lm.PathChallenge(move.token), self._rng, self._scratch), sender)
        link.send(lm.PathChallenge(move.old_token))

    def _on_path_challenge(self, link: Link, message: lm.LinkMessage, now: float) -> None:
        assert isinstance(message, lm.PathChallenge)
        link.send(lm.PathResponse(message.token))

    def _on_path_response(self, link: Link, message: lm.PathResponse, sender: Address, now: float) -> None:
        move = link.move
        if move is None or now - move.asked > CHALLENGE_LIFETIME:
            self.drops[Drop.UNEXPECTED] += 1
        elif sender == move.address and sodium.equal(move.token, message.token):
            move.answered = True
            self._timers.at(now + CHALLENGE_GRACE, lambda _: self._follow(link, move))
        elif sodium.equal(move.old_token, message.token):
            move.refuted = True  # from wherever: the cell may be a copy that came before the true one
        else:
            self.drops[Drop.UNEXPECTED] += 1

    @staticmethod
    def _follow(link: Link, move: Move) -> None:
        if link.move is move and not move.refuted:
            link.address, link.move = move.address, None

    # --- sessions ----------------------------------------------------------------------------

    def _mark_dirty(self, session: Session) -> None:
        self._dirty[session] = None

    def _own_static(self, remote: bytes) -> tuple[KeyPair, float]:
        """Our static towards `remote`, and the epoch of the timestamps we show it.

        A throw-away static comes with a throw-away epoch: the true time, to the nanosecond, would tell one client from
        another.
        """
        if self._static is not None:
            return self._static, self._epoch
        if remote not in self._statics:
            self._statics[remote] = KeyPair.generate(self._rng), float(self._rng.below(1 << 30))
        return self._statics[remote]

    def _new_index(self) -> Index:
        while True:
            index = (1 + self._rng.below(255)) << 24 | self._rng.below(1 << 24)
            if index not in self._sessions and index not in self._tries:
                return Index(index)

    def _new_session(self, link: Link, keys: SessionKeys, index: Index, peer: Index, now: float, *,
                     initiator: bool) -> Session:  # fmt: skip
        session = Session(link, keys, index=index, peer_index=peer, initiator=initiator, now=now, rng=self._rng,
                          pool=self._pool)  # fmt: skip
        self._sessions[index] = session
        return session

    def _add_pending(self, session: Session, now: float) -> None:
        pending = session.link.pending
        pending.append(session)
        self._pending[session.index] = (session, now + PENDING_SESSION)
        if len(pending) > MAX_LINK_PENDING:
            self._drop_session(pending[0])
        if len(self._pending) > MAX_PENDING_SESSIONS:
            self._drop_session(next(iter(self._pending.values()))[0])
        if self._pending_timer is None:
            self._pending_timer = self._timers.at(now + PENDING_SESSION, self._expire_pending)

    def _expire_pending(self, now: float) -> None:
        self._pending_timer = None
        while self._pending:
            session, until = next(iter(self._pending.values()))
            if until > now:
                self._pending_timer = self._timers.at(until, self._expire_pending)
                return
            self._drop_session(session)

    def _confirm(self, session: Session, sender: Address, now: float) -> bool:
        """A cell came on a session that we answered: its initiator is who it says it is.

        Returns:
            Whether there is room for it.
        """
        link = session.link
        del self._pending[session.index]
        link.pending.remove(session)
        known = self._links.get(link.remote)
        if known is None:
            prefix = prefix_of(sender[0])
            if self._guests.full_for(prefix):
                self.drops[Drop.LIMIT] += 1
                self._drop_session(session)
                return False
            link.address = sender
            self._links[link.remote] = link
            if (leaves := self._guests.add(prefix, link)) is not None:
                self.drops[Drop.LIMIT] += 1
                self.close(leaves, now)
        elif known is not link:
            # The neighbour was answered on a link of its own while we opened one to it: one neighbour, one link.
            session.link = link = known
        if link.current is not None and self._goes_first(link, link.current, now):
            self._replace_previous(link, session)
        else:
            self._adopt(link, session, now)
        return True

    @staticmethod
    def _goes_first(link: Link, ours: Session, now: float) -> bool:
        """Whether `ours` stays the current session although the neighbour has begun another one (SPEC 4.5).

        Both began at once and both were answered: then each side has two sessions, and they must choose the same,
        whatever order cells come in.  Later on, a neighbour that begins anew has lost the session we have.
        """
        return ours.initiator and now - ours.born < HANDSHAKE_TIMEOUT and link.static.public < link.remote

    def _replace_previous(self, link: Link, session: Session | None) -> None:
        if link.previous is not None:
            self._drop_session(link.previous)
        link.previous = session

    def _adopt(self, link: Link, session: Session, now: float) -> None:
        self._end_dial(link)
        self._replace_previous(link, None)
        early = self._rng.below(1 << 16) / (1 << 16) * REKEY_JITTER
        link.use(session, now, REKEY_AFTER_TIME * (1 - early))
        link.used = now
        self._watch(link, now)

    def _drop_session(self, session: Session) -> None:
        self._sessions.pop(session.index, None)
        self._pending.pop(session.index, None)
        self._dirty.pop(session, None)
        link = session.link
        if session in link.pending:
            link.pending.remove(session)
        if link.previous is session:
            link.previous = None
        session.wipe()

    # --- handshakes ---------------------------------------------------------------------------

    def _receive_stranger(self, index: int, datagram: bytes, sender: Address, now: float) -> None:
        """A datagram whose index is no session's (SPEC 4.1)."""
        if (attempt := self._tries.get(index)) is not None:
            self._receive_answer(attempt, datagram, sender, now)
        elif self.responder is None:
            self.drops[Drop.UNKNOWN_INDEX] += 1
        else:
            result = self.responder.receive(datagram, sender, now)
            if isinstance(result, Drop):
                self.drops[result] += 1
            elif result is not None:
                self._send_raw(result, sender)

    def _receive_answer(self, attempt: _Try, datagram: bytes, sender: Address, now: float) -> None:
        link, dial = attempt.link, self._dials.get(attempt.link)
        if dial is None or attempt.gate is None:
            self.drops[Drop.UNEXPECTED] += 1
            return
        m2 = attempt.gate.open_response(datagram)
        if m2 is not None:
            try:
                keys, peer = attempt.initiator.finish(m2)
            except RemoteError:
                self.drops[Drop.BAD_HANDSHAKE] += 1
                return
            if sender in dial.addresses:
                link.address = sender
            del self._tries[attempt.index]
            session = self._new_session(link, keys, attempt.index, peer, now, initiator=True)
            self._adopt(link, session, now)
            link.send(lm.Padding(lm.Answer.WANTED))  # confirms the session when nothing else waits to be sent
            return
        cookie = open_cookie_reply(datagram, attempt.mac1, link.remote)
        if cookie is None:
            self.drops[Drop.BAD_COOKIE] += 1
            return
        link.cookie = (cookie, now)
        if not dial.cookie_used:
            dial.cookie_used = True
            self._shake(link, now)

    def _shake(self, link: Link, now: float) -> None:
        """Send one more initiation, or REKEY when the link is up, and arrange for the next (SPEC 4.5)."""
        dial = self._dials[link]
        if dial.timer is not None:
            dial.timer.cancel()
        index = self._new_index()
        initiator = Initiator(network_id=self._network_id, static=link.static, remote=link.remote, index=index,
                              timestamp=tai64n(link.epoch + now), rng=self._rng, kem=self._kem)  # fmt: skip
        if link.current is None:
            fresh = link.cookie is not None and now - link.cookie[1] < COOKIE_LIFETIME
            cookie = link.cookie[0] if fresh and link.cookie else None
            datagram = build_initiation(initiator.m1, index, link.remote, cookie, self._rng)
            attempt = _Try(link, initiator, index, mac1_of(datagram), Gate(link.static.public))
            for address in dial.addresses:
                self._send_raw(datagram, address)
        else:
            attempt = _Try(link, initiator, index, b"", None)
            link.send(lm.Rekey(index, initiator.m1))
        self._tries[index] = attempt
        dial.tries.append(attempt)
        number = len(dial.tries) - 1
        end = dial.began + HANDSHAKE_TIMEOUT
        if number < len(RETRY_DELAYS) and now + RETRY_DELAYS[number] < end:
            dial.timer = self._timers.at(now + RETRY_DELAYS[number], lambda then: self._shake(link, then))
        else:
            dial.timer = self._timers.at(end, lambda then: self._give_up(link, then))

    def _give_up(self, link: Link, now: float) -> None:
        if link.current is None:
            self.close(link, now)
        else:
            self._end_dial(link)

    def _end_dial(self, link: Link) -> None:
        if (dial := self._dials.pop(link, None)) is not None:
            if dial.timer is not None:
                dial.timer.cancel()
            for attempt in dial.tries:
                self._tries.pop(attempt.index, None)

    def work(self, now: float) -> bool:
        """Answer one waiting initiation and one REKEY; False when none waits."""
        return self._work_initiation(now) | self._work_rekey(now)

    def _work_initiation(self, now: float) -> bool:
        if self.responder is None or (waiting := self.responder.next()) is None:
            return False
        initiation = self.responder.read(waiting)
        if isinstance(initiation, Drop):
            self.drops[initiation] += 1
            return True
        link = self._links.get(initiation.static)
        if link is None:
            if self._guests.full_for(prefix_of(waiting.sender[0])):
                self.drops[Drop.LIMIT] += 1
                return True
            link = Link(initiation.static, waiting.sender, self.responder.static, now, self._rng, self._mark_dirty,
                        self._epoch)  # fmt: skip
        self._answer(link, initiation, waiting.index, waiting.sender, now)
        return True

    def _answer(self, link: Link, initiation: Initiation, peer: Index, sender: Address, now: float) -> None:
        index = self._new_index()
        try:
            m2, keys = initiation.answer(index, self._rng, self._kem)
        except RemoteError:
            self.drops[Drop.BAD_HANDSHAKE] += 1
            return
        session = self._new_session(link, keys, index, peer, now, initiator=False)
        self._add_pending(session, now)
        self._send_raw(build_response(m2, peer, initiation.static, self._rng), sender)

    def _on_rekey(self, link: Link, message: lm.LinkMessage, now: float) -> None:
        assert isinstance(message, lm.Rekey)
        if link in self._rekeying:
            return  # repeated while it waits: one answer will do
        self._rekeying[link] = None
        for refused, _ in self._rekeys.add(prefix_of(link.address[0]), (link, message)):
            self.drops[Drop.QUEUE_FULL] += 1
            del self._rekeying[refused]

    def _work_rekey(self, now: float) -> bool:
        if (waiting := self._rekeys.pop()) is None:
            return False
        link, message = waiting
        del self._rekeying[link]
        if link.current is None:
            return True
        try:
            initiation = read_initiation(message.m1, network_id=self._network_id, static=link.static,
                                         index=message.index)  # fmt: skip
            index = self._new_index()
            m2, keys = initiation.answer(index, self._rng, self._kem)
        except RemoteError:
            self.drops[Drop.BAD_HANDSHAKE] += 1
            return True
        if sodium.equal(initiation.static, link.remote):
            self._add_pending(self._new_session(link, keys, index, message.index, now, initiator=False), now)
            link.send(lm.Rekeyed(m2))
        else:
            self.drops[Drop.BAD_HANDSHAKE] += 1
        return True

    def _on_rekeyed(self, link: Link, message: lm.LinkMessage, now: float) -> None:
        assert isinstance(message, lm.Rekeyed)
        dial = self._dials.get(link)
        for attempt in [attempt for attempt in dial.tries if attempt.gate is None] if dial else []:
            try:
                keys, peer = attempt.initiator.finish(message.m2)
            except RemoteError:
                continue  # it may answer another of our tries
            del self._tries[attempt.index]
            self._adopt(link, self._new_session(link, keys, attempt.index, peer, now, initiator=True), now)
            link.send(lm.Padding(lm.Answer.WANTED))
            return
        self.drops[Drop.BAD_HANDSHAKE] += 1

    # --- liveness ------------------------------------------------------------------------------

    def _watch(self, link: Link, now: float) -> None:
        """Look after a link that is up, and arrange for the next look (SPEC 4.5, 4.8)."""
        if link.timer is not None:
            link.timer.cancel()
            link.timer = None
        session = link.current
        if session is None:
            return
        age = now - session.born
        if age >= SESSION_LIFETIME or session.cells_sent >= SESSION_MAX_CELLS:
            self.close(link, now)
            return
        if (
            session.initiator
            and link not in self._dials
            and (age >= link.rekey_from or session.cells_sent >= REKEY_AFTER_CELLS)
        ):
            self._dials[link] = _Dial(now, [], [])
            self._shake(link, now)
        if not session.proven and age > 0:
            link.send(lm.Padding(lm.Answer.WANTED))  # what would have told the neighbour to use this session was lost
        if (old := link.previous) is not None and (now >= link.previous_until or now - old.born >= SESSION_LIFETIME):
            self._drop_session(old)
        if link.circuits or link.outgoing:
            link.used = now
            if now >= link.heard + LINK_SILENCE + link.probes * LINK_PROBE_INTERVAL:
                if link.probes == LINK_PROBES:
                    self.close(link, now)
                    return
                link.probes += 1
                link.send(lm.Padding(lm.Answer.WANTED))
        elif now - max(link.used, link.heard) >= LINK_IDLE:
            self.close(link, now)
            return
        link.timer = self._timers.at(now + LINK_PROBE_INTERVAL, lambda then: self._watch(link, then))

    # --- cells out -----------------------------------------------------------------------------

    def _send_raw(self, datagram: bytes, receiver: Address) -> None:
        if len(self._raw) < MAX_RAW_DATAGRAMS:
            self._raw.append((datagram, receiver))
        else:
            self.drops[Drop.LIMIT] += 1

    def drain(self) -> Iterable[tuple[memoryview | bytes, Address]]:
        """What is to be sent now, a train or a single datagram at a time; each is good until the next is asked for."""
        raw, self._raw = self._raw, []
        yield from raw
        while self._dirty:
            session = next(iter(self._dirty))
            del self._dirty[session]
            for train in session.take_trains():
                if train.count:
                    yield session.finish(train, self._scratch), session.link.address
                self._pool.give(train)
