"""Every number of the protocol, with its unit and where it comes from.  Floor 0."""

from typing import Final

# --- Specified: changing one of these breaks other nodes -------------------------------------

VERSION: Final = 1
"""Protocol version, in every prologue and transcript (SPEC 1)."""

CELL_SIZE: Final = 1350
"""Bytes of a cell on the wire, always (SPEC 1): + 8 UDP + 40 IPv6 = 1398, inside a path MTU of 1400."""

INDEX_SIZE: Final = 4
"""Bytes of the receiver index in front of every cell (SPEC 2.1)."""

HEADER_SIZE: Final = 16
"""Bytes of the encrypted header block: one AES block (SPEC 2.1)."""

BODY_OFFSET: Final = INDEX_SIZE + HEADER_SIZE

BODY_SIZE: Final = CELL_SIZE - BODY_OFFSET

TAG_SIZE: Final = 16
"""Poly1305 (RFC 8439 2.5)."""

FLAG_SIZE: Final = 1

LAYER_SIZE: Final = TAG_SIZE + FLAG_SIZE
"""What one forward layer takes of the body (SPEC 2.5)."""

LAYER_TEXT_SIZE: Final = BODY_SIZE - TAG_SIZE
"""Bytes a forward layer encrypts: flag and rest (SPEC 6.1)."""

MAX_HOPS: Final = 6
"""Hops of a circuit (SPEC 6)."""

PAYLOAD_SIZE: Final = BODY_SIZE - (MAX_HOPS + 1) * LAYER_SIZE
"""Bytes for messages in a cell, on every circuit: six hops and one end-to-end layer (SPEC 2.5)."""

AREA_SIZE: Final = PAYLOAD_SIZE + LAYER_SIZE
"""Bytes a backward cell seals: the payload and room for an end-to-end layer (SPEC 6.2)."""

PASS_SIZE: Final = 7
"""What one backward hop puts in front: flag 1 + counter 6 (SPEC 6.2)."""

SEALED_TEXT_SIZE: Final = BODY_SIZE - TAG_SIZE
"""Bytes under the link's seal: circuit id and content (SPEC 4.6)."""

SEALED_CONTENT_SIZE: Final = SEALED_TEXT_SIZE - 4

KEY_SIZE: Final = 32

COUNTER_START_LIMIT: Final = 1 << 40
"""Counter sequences start at random below this (SPEC 2.3)."""

COUNTER_SEND_LIMIT: Final = 1 << 47
"""A sender stops before this (SPEC 2.3)."""

COUNTER_LIMIT: Final = (1 << 47) + (1 << 44)
"""A receiver drops a counter at or above this: five offsets below 2^40 are well inside (SPEC 2.3)."""

REPLAY_WINDOW: Final = 2048
"""Counters a receiver remembers (SPEC 2.4; RFC 6479).  At 20 000 cells/s it spans 100 ms of reordering."""

FILLERS_PER_CHUNK: Final = 64
"""64 fillers of 17 bytes are 17 whole ChaCha20 blocks (SPEC 6.1)."""

MAX_EARLY: Final = 16
"""EARLY cells a relay passes on for one circuit (SPEC 7.4; Tor prop 110 has 8)."""

MIN_EARLY: Final = 12
"""The originator makes MIN_EARLY to MAX_EARLY first cells EARLY (SPEC 7.4)."""

KEYID_SIZE: Final = 8
X25519_SIZE: Final = 32
KEM_PUBLIC_SIZE: Final = 1184
"""ML-KEM-768 encapsulation key (FIPS 203, table 3)."""
KEM_CIPHERTEXT_SIZE: Final = 1088
"""ML-KEM-768 ciphertext (FIPS 203, table 3)."""
EXTRA_SIZE: Final = 49
"""Length byte and up to 48 bytes of data (SPEC 5.2 steps 4 and 10)."""
MAX_EXTRA: Final = EXTRA_SIZE - 1
AUTH_SIZE: Final = 32

CREATE_SIZE: Final = 1 + KEYID_SIZE + X25519_SIZE + KEM_PUBLIC_SIZE + EXTRA_SIZE + AUTH_SIZE
"""Handshake of CREATE and EXTEND: 1306 (SPEC 5.2 step 6)."""

CREATED_SIZE: Final = X25519_SIZE + KEM_CIPHERTEXT_SIZE + EXTRA_SIZE + AUTH_SIZE
"""Handshake of CREATED and EXTENDED: 1201 (SPEC 5.2 step 12)."""

TIMESTAMP_SIZE: Final = 12
"""TAI64N (SPEC 4.2)."""

M1_SIZE: Final = X25519_SIZE + (X25519_SIZE + TAG_SIZE) + (KEM_PUBLIC_SIZE + TIMESTAMP_SIZE) + TAG_SIZE
"""First message of the link handshake: 1292 (SPEC 4.2)."""

M2_SIZE: Final = X25519_SIZE + (KEM_CIPHERTEXT_SIZE + INDEX_SIZE) + TAG_SIZE
"""Second message of the link handshake: 1140 (SPEC 4.3)."""

PATH_TOKEN_SIZE: Final = 16
"""Bytes of a PATH_CHALLENGE (SPEC 4.6)."""

PING_TOKEN_SIZE: Final = 8
"""Bytes of a PING (SPEC 8.3)."""

RELAY_ID_SIZE: Final = 32
"""SHA-256 (SPEC 5.1)."""

MAX_HOST_SIZE: Final = 253
"""Bytes of a host name (SPEC 8.4; RFC 1035 2.3.4 without the root label)."""

MAX_LABEL_SIZE: Final = 63
"""Bytes between two dots of a host name (RFC 1035 2.3.4)."""

MESSAGE_HEAD_SIZE: Final = 3
"""Type 1, length 2 (SPEC 8.1)."""

FRAGMENT_HEAD_SIZE: Final = 4
"""Message id 2, index 1, count 1: behind the message head of a fragment (SPEC 8.1)."""

WHOLE_SIZE: Final = PAYLOAD_SIZE - MESSAGE_HEAD_SIZE
"""Bytes of content that need no fragments: 1208 (SPEC 8.1)."""

PART_SIZE: Final = WHOLE_SIZE - FRAGMENT_HEAD_SIZE
"""Bytes of content in every fragment but the last: 1204 (SPEC 8.2)."""

HOP_KEYS_SIZE: Final = 5 * KEY_SIZE + 8
"""KEYS: what a finished handshake yields, 168 (SPEC 5.3)."""

COUNTER_OFFSET_LIMIT: Final = 1 << 40
"""The counter offset of a hop is taken modulo this (SPEC 5.3)."""

MAX_CONTROL_SIZE: Final = 4096
"""Bytes of a control message (SPEC 8.2)."""

MAX_DATAGRAM_SIZE: Final = 65535
"""Bytes of a datagram with its destination (SPEC 8.2)."""

MAX_FRAGMENTS: Final = 55
"""55 * 1204 >= 65535 (SPEC 8.2)."""

CIRCUIT_UNFINISHED: Final = 8
"""Messages a circuit may have half reassembled (SPEC 8.2)."""

CIRCUIT_REASSEMBLY: Final = 131072
"""Bytes a circuit may have half reassembled (SPEC 8.2)."""

REASSEMBLY_TIMEOUT: Final = 10.0
"""Seconds after the newest fragment (SPEC 8.2)."""

MAX_PACKET: Final = WHOLE_SIZE
"""Bytes of a packet, that is of the content of one STREAMS message: 1208, never cut into fragments (SPEC 13.1)."""

MAX_PACKET_NUMBER: Final = (1 << 32) - 1
"""Packet numbers have 32 bits and do not wrap: 4.8 TiB (SPEC 13.1)."""

MAX_STREAM_ID: Final = (1 << 32) - 1
"""SPEC 13.2."""

MAX_STREAM_SIZE: Final = (1 << 62) - 1
"""Bytes of one direction of a stream (SPEC 13.2; RFC 9000 19.8)."""

INITIAL_STREAMS: Final = 1024
"""Streams each end may open before it hears MAX_STREAMS (SPEC 13.4)."""

INITIAL_STREAM_CREDIT: Final = 256 << 10
"""Bytes each end may send on a stream before it hears MAX_STREAM_DATA (SPEC 13.4): five times the first flight."""

INITIAL_CREDIT: Final = 1 << 20
"""Bytes each end may send on all streams before it hears MAX_DATA (SPEC 13.4)."""

MAX_QUERIES: Final = 64
"""RESOLVEs of one end that wait for their RESOLVED (SPEC 13.6)."""

MAX_ANSWERS: Final = 16
"""Addresses or names in one RESOLVED (SPEC 13.6)."""

MAX_RESOLVED_SIZE: Final = 1024
"""Bytes of a RESOLVED frame, so that it shares a packet with an ACK (SPEC 13.6)."""

MAX_ACK_RANGES: Final = 32
"""Ranges of an ACK (SPEC 13.5): 259 bytes.  At 2 % loss they reach back 1600 packets, a hundred ACKs."""

ACK_EVERY: Final = 16
"""Packets that one ACK waits for at most (SPEC 13.5).  Each ACK costs a whole cell at every relay: 1/16 of the data."""

ACK_DELAY: Final = 0.025
"""Seconds an ACK waits at most (SPEC 13.5; RFC 9000 18.2, max_ack_delay)."""

ACK_DELAY_UNITS: Final = 10_000
"""In a second: an ACK counts its own delay in tenths of a millisecond (SPEC 13.5)."""

MAX_NETWORK_ID: Final = 32
"""Bytes of a network id (SPEC 1)."""

COOKIE_LIFETIME: Final = 120.0
"""Seconds a cookie secret is the current one (SPEC 4.4; WireGuard 5.4.7)."""

REKEY_AFTER_TIME: Final = 3600.0
"""Seconds until the initiator renews a session (SPEC 4.5)."""

REKEY_JITTER: Final = 0.1
"""Share of REKEY_AFTER_TIME taken off at random, so that links do not renew in step (SPEC 4.5)."""

REKEY_AFTER_CELLS: Final = 1 << 32

SESSION_LIFETIME: Final = 7200.0
"""Seconds after which a session is not used at all (SPEC 4.5)."""

SESSION_MAX_CELLS: Final = 1 << 33

PREVIOUS_SESSION: Final = 15.0
"""Seconds the replaced session is still accepted: cells on the way (SPEC 4.5)."""

PENDING_SESSION: Final = 10.0
"""Seconds a responder waits for the first cell (SPEC 4.5)."""

RETRY_DELAYS: Final = (1.0, 2.0, 4.0)
"""Seconds between tries of a handshake datagram, CREATE and EXTEND (SPEC 4.5, 7.3)."""

HANDSHAKE_TIMEOUT: Final = 10.0
"""Seconds until a link or a hop is given up (SPEC 4.5, 7.3)."""

EXTEND_TIMEOUT: Final = 7.5
"""Seconds until a relay gives an extension up: before the originator does, so that it says which hop did not answer
(SPEC 7.2)."""

ANSWER_LIFETIME: Final = 10.0
"""Seconds a relay keeps CREATED for a repeated CREATE (SPEC 7.1)."""

MAX_OPEN_CREATES: Final = 32
"""Unanswered CREATEs a relay keeps towards one next hop (SPEC 7.7)."""

UNDER_LOAD_INITIATIONS: Final = 32
"""Waiting initiations above which cookies are asked for (SPEC 4.8)."""

CHALLENGE_INTERVAL: Final = 1.0
"""Seconds between PATH_CHALLENGEs of one link (SPEC 4.7)."""

CHALLENGE_LIFETIME: Final = 5.0

CHALLENGE_GRACE: Final = 0.5
"""Seconds the old address has, from the answer of the new one, to say that it is still the right one (SPEC 4.7)."""

LINK_SILENCE: Final = 5.0
"""Seconds of silence before a link in use is probed (SPEC 4.8)."""

LINK_PROBE_INTERVAL: Final = 1.5
LINK_PROBES: Final = 3

LOST_NOTICE_INTERVAL: Final = 1.0
"""Seconds between DESTROYs of one link for circuits we do not know (SPEC 7.5)."""

LINK_IDLE: Final = 120.0
"""Seconds a link without circuits is remembered (SPEC 4.8)."""

PING_INTERVAL: Final = 10.0
"""Seconds without backward cells before the originator asks (SPEC 7.6)."""

PING_TRIES: Final = 3

DESTROY_DELAYS: Final = (0.5, 2.0)
"""DESTROY is sent at once and again at these ages, in seconds (SPEC 7.5)."""

REJECTED_INTERVAL: Final = 1.0
"""Seconds between REJECTED messages of one circuit (SPEC 8.5)."""

ONION_KEY_LIFETIME: Final = 7 * 86400.0
"""Seconds an onion key is the current one; it is accepted as long again (SPEC 5.1)."""

# --- Ours: changing one of these changes only this node --------------------------------------

BATCH_CELLS: Final = 48
"""Cells of one UDP_SEGMENT or UDP_GRO call: 49 * 1350 is more than 65 507 (EMSGSIZE, measured)."""

NODE_REASSEMBLY: Final = 16 << 20
"""Bytes half reassembled over all circuits of a node."""

MAX_PENDING_SESSIONS: Final = 4096
"""Sessions a responder keeps that no cell has confirmed."""

MAX_LINK_PENDING: Final = 5
"""Of them, towards one neighbour: one for each try of a handshake, and one for the try with a cookie."""

MAX_LINKS: Final = 16384
"""Neighbours that opened a link to us.  Above it, one of the source prefix with the most makes room."""

MAX_RAW_DATAGRAMS: Final = 4096
"""Handshakes, cookie replies and challenges between two looks at the socket: 5.5 MB, then they are dropped."""

MAX_TIMESTAMPS: Final = 65536
"""Initiator statics whose newest timestamp is remembered."""

MAX_REPEATED_DESTROYS: Final = 4096
"""DESTROYs that wait to be repeated: two timers each, 2 MB."""

RELAY_SHARES: Final = 64
"""A neighbour that is a relay counts as this many clients where circuits compete for places."""

QUEUE_PER_KEY: Final = 64
"""Waiting requests of one prefix or neighbour in a fair queue."""

QUEUE_TOTAL: Final = 8192
"""Waiting requests in a fair queue."""

HANDSHAKES_PER_TURN: Final = 8
"""Public-key operations (0.2 to 0.4 ms each) done between two looks at the socket, so that cells do not wait."""

MAX_LINK_BACKLOG: Final = 64
"""Sealed cells kept for a link that is still shaking hands."""

MAX_TRAINS: Final = 32
"""Trains of 48 cells that wait on one session between two looks at the socket: 2 MB, then cells are dropped."""

WAKE_DATAGRAMS: Final = 16 * BATCH_CELLS
"""Datagrams taken from a socket before timers and other tasks run: 768 relayed cells are 3.4 ms in trains, 8 ms singly.
With 64 neighbours half as many cost 10 % more a cell, because less goes to each of them (python -m bench relay)."""

IPV8_WEIGHT: Final = 16
"""One IPv8 message counts as this many in WAKE_DATAGRAMS: a signature is checked (0.1 to 0.2 ms)."""

SOCKET_RECEIVE_BUFFER: Final = 4 << 20
"""Bytes asked of SO_RCVBUF; Linux charges headers too and grants twice that.  Holds 127 full trains or 3640 single
cells (measured): 30 or 18 ms at 200 000 cells/s, so that a turn of the loop with handshakes in it loses nothing."""

SOCKET_SEND_BUFFER: Final = 256 << 10
"""Bytes asked of SO_SNDBUF, granted twice: 7 full trains, 4 ms at 1 Gbit/s.  It bridges one turn of the loop; more
would only add delay in front of a slow line."""

SEND_QUEUE_SIZE: Final = 1 << 20
"""Bytes that wait for a socket whose buffer is full: 40 ms at 200 Mbit/s.  What finds no room is dropped."""

SEND_QUEUE_AGE: Final = 0.25
"""Seconds after which waiting bytes are dropped instead of sent: the ends have repeated them by then."""

NO_BUFFERS_PAUSE: Final = 0.002
"""Seconds until the next try after ENOBUFS, of which no poll reports the end."""

SINGLE_SENDERS: Final = 4096
"""Receivers remembered as not reachable by UDP_SEGMENT."""

SINGLE_SEND_TIME: Final = 600.0
"""Seconds until such a receiver is tried with a train again: as long as Linux remembers a path MTU (RFC 8201 4)."""

HEARD_ON: Final = 4096
"""Senders whose own socket is remembered where several sockets share an address family."""

MAX_PORT: Final = 65535

MAX_POLICY_SUMMARY: Final = 1000
"""Characters of the policy summary in a relay descriptor (Tor's MAX_EXITPOLICY_SUMMARY_LEN)."""

SUMMARY_REJECTED_IPV4: Final = 1 << 25
"""IPv4 addresses a policy may reject at a port that its summary calls open: two /8 (Tor's policy summary)."""

SUMMARY_REJECTED_IPV6: Final = 1 << 112
"""IPv6 addresses, likewise: a /16."""

DNS_TIMEOUT: Final = 5.0
"""Seconds an exit looks for one host name, all tries and name servers included (resolv.conf(5) waits as long for one
try)."""

DNS_TRY: Final = 1.5
"""Seconds until the next name server is asked: three tries fit into DNS_TIMEOUT."""

DNS_MIN_TTL: Final = 300.0
"""Seconds a name keeps its addresses at least (Tor's MIN_DNS_TTL): a name that changes at once is a rebinding attack or
a tracker."""

DNS_MAX_TTL: Final = 3600.0
"""Seconds, at most (Tor's MAX_DNS_TTL)."""

DNS_NEGATIVE_TTL: Final = 60.0
"""Seconds a name is remembered not to exist."""

DNS_CACHE: Final = 4096
"""Names an exit remembers: about 4 MB."""

DNS_LOOKUPS: Final = 128
"""Names an exit looks for at the same time: two sockets each, a quarter of the usual 1024 descriptors."""

DNS_ADDRESSES: Final = 16
"""Addresses of one name that are looked at."""

EXIT_CIRCUITS: Final = 1024
"""Circuits with UDP sockets at an exit: two descriptors each."""

EXIT_IDLE: Final = 300.0
"""Seconds without a datagram *to* the outside after which a circuit's sockets close, and for which an address may
answer (RFC 4787 REQ-5: 120 at the least, 300 recommended)."""

EXIT_PEERS: Final = 1024
"""Addresses that may answer one circuit; the one written to longest ago goes first.  A BitTorrent DHT node asks about
500 in EXIT_IDLE seconds."""

EXIT_RATE: Final = 5000.0
"""Datagrams a second of one circuit, each way: 48 Mbit/s of 1200 bytes."""

EXIT_TOTAL_RATE: Final = 50000.0
"""Datagrams a second of all circuits, each way."""

EXIT_BURST: Final = 0.2
"""Seconds of its rate that a circuit may send at once after a silence."""

EXIT_QUEUE: Final = 65536
"""Bytes of one circuit that wait for host names, overhead included."""

EXIT_TOTAL_QUEUE: Final = 8 << 20
"""Bytes of all circuits that wait for host names."""

EXIT_QUEUE_OVERHEAD: Final = 256
"""Bytes a waiting datagram counts for besides its own: objects around it, so that empty ones are bounded too."""

EXIT_NAMES: Final = 8
"""Host names one circuit may have looked for at the same time."""

EXIT_TOTAL_NAMES: Final = DNS_LOOKUPS
"""Host names looked for at the same time, over all circuits."""

EXIT_PINS: Final = 64
"""Host names of a circuit whose address is kept, so that a flow stays with one server."""

EXIT_PIN: Final = 60.0
"""Seconds a circuit keeps the address of a host name before it asks again."""

EXIT_READS: Final = 32
"""Datagrams read from one socket before others get their turn."""

REAP_INTERVAL: Final = 5.0
"""Seconds between looks at the circuits of others for ones that are over their limits."""

NO_PATH_RETRY: Final = 1.0
"""Seconds after which a path is looked for again when the known relays made none."""

PATH_DRAWS: Final = 20_000
"""Relays drawn, besides four times the known ones, until the search for a path is given up: 50 ms."""

MAX_BUILDING: Final = 4
"""Circuits of one hop count that are built at one time: more would compete for the same handshakes."""

BUILD_BACKOFF: Final = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""Seconds without a new attempt after this many failed builds in a row."""

PROVEN_AGE: Final = 10.0
"""Seconds a circuit has to stay open to count as built; one that ends earlier counts as a failed build."""

EXPIRY_LEAD: Final = 30.0
"""Seconds before its max_time at which the successor of a circuit is built."""

EXPIRY_GRACE: Final = 600.0
"""Seconds an expired circuit may go on for what still uses it."""

RECENTLY_USED: Final = 10.0
"""Seconds for which a circuit counts as in use after its last datagram."""

AVOID_TIME: Final = 60.0
"""Seconds for which a relay that failed is chosen only where there is no other."""

POOL_INTERVAL: Final = 1.0
"""Seconds between looks at the pool; a circuit that ends is replaced at once."""

MAX_DESCRIPTOR_SIZE: Final = 2048
"""Bytes of a relay descriptor (SPEC 11.1)."""

MAX_DESCRIPTOR_LIFETIME: Final = 86400
"""Seconds (SPEC 11.1)."""

DESCRIPTOR_AHEAD: Final = 600
"""Seconds by which a relay's clock may be ahead of ours (SPEC 11.2)."""

MAX_ADDRESSES: Final = 4
"""Of one relay (SPEC 11.1)."""

MAX_FAMILY: Final = 16
"""Members a relay may name (SPEC 11.1)."""

MAX_PAGE_SIZE: Final = 16384
"""Bytes of one DESCRIPTORS message (SPEC 12.1): 14 cells, so that three in four arrive whole at 2 % loss."""

BUCKETS: Final = 256
"""A bucket is all relay ids with one first byte (SPEC 12.1)."""

BUCKET_DIGEST_SIZE: Final = 8
"""Bytes (SPEC 12.1)."""

MAX_RELAYS: Final = 20_000
"""Relays a node keeps descriptors of: 8 MB; the rest of a Sybil flood finds no room."""

MIN_SOURCES: Final = 2
"""Directory sources that must have shown a relay before a client uses it (SPEC 12.3)."""

MAX_DISAGREEMENT: Final = 0.2
"""Share of the larger set by which two sources may differ (SPEC 12.3)."""

FETCH_SOURCES: Final = 3
"""Directory sources a client asks, in different networks (SPEC 12.3)."""

FETCH_RETRY: Final = 3.0
"""Seconds until a directory request is repeated (SPEC 12.1)."""

FETCH_TRIES: Final = 4
"""Times a directory request is sent: once, and three times again (SPEC 12.1)."""

FETCH_TIMEOUT: Final = 300.0
"""Seconds a whole fetch may take: MAX_RELAYS are about 600 pages, and SERVE_RATE gives 10 a second."""

SERVE_RATE: Final = 10.0
"""Directory answers a second for one circuit: 1.3 Mbit/s of pages."""

SERVE_BURST: Final = 20.0
"""Directory answers a circuit may have at once: a first fetch of 500 relays takes 13."""

VIEW_LIFETIME: Final = 86400.0
"""Seconds for which what a source showed counts: after a MAX_DESCRIPTOR_LIFETIME nothing of it is valid any more."""

ROOT_LIFETIME: Final = 7200.0
"""Seconds for which no majority of sources counts against one that the application has named: two fetches."""

GOSSIP_INTERVAL: Final = 60.0
"""Seconds between a relay's comparisons with another one, less up to GOSSIP_JITTER (SPEC 12.2)."""

GOSSIP_JITTER: Final = 0.2

NEWS_SHARE: Final = 0.05
"""Share of news in what a relay knows above which it compares again at once: a network that starts is learned in
seconds, and one that runs brings a hundredth in an hour."""

PROBE_INTERVAL: Final = 1.0
"""Seconds between PROBEs that are obeyed for one link (SPEC 11.3)."""

PROBE_PAUSE: Final = 1.5 * PROBE_INTERVAL
"""Seconds between PROBEs that one relay is sent: losses and queues bring the second one nearer to the first."""

PROBE_TIMEOUT: Final = 25.0
"""Seconds for a circuit, a link and an answer, each of which may need its retries."""

MAX_PROBES: Final = 3
"""Third relays that are asked to reach a newcomer (SPEC 11.3)."""

MAX_UNREACHED: Final = 256
"""Introduced relays that wait to be reached, or asked."""

MAX_REACHING: Final = 8
"""Introduced relays that are being reached at one time: each costs handshakes, here and at a third relay."""

CHECKS_PER_TURN: Final = 4
"""Signatures of one page that are checked before others have their turn: 12 ms with the slowest kind of key."""

CHECK_PAUSE: Final = 0.002
"""Seconds until the next turn."""

PUBLISH_INTERVAL: Final = 8 * 3600.0
"""Seconds after which a relay describes itself anew, less up to PUBLISH_JITTER (SPEC 11.2)."""

PUBLISH_JITTER: Final = 0.25

CLIENT_FETCH_INTERVAL: Final = 3600.0
"""Seconds after which a client compares its set with each of its sources again, less up to GOSSIP_JITTER."""

DISCOVERY_INTERVAL: Final = 1.0
"""Seconds between looks at what there is to discover while too little is known; GOSSIP_INTERVAL afterwards."""

TROUBLED_FETCH_INTERVAL: Final = 4.0
"""Seconds after which a client asks a source again while it knows too few relays or its sources disagree."""

# --- Ours: which relays are used ---------------------------------------------------------------

DAY: Final = 86400.0

GUARD_PRIMARIES: Final = 3
"""Guards that are preferred to all others, the first that works is used (Tor guard-spec, N_PRIMARY_GUARDS)."""

GUARD_SAMPLE: Final = 20
"""Usable guards the sample is filled up to (guard-spec, MIN_FILTERED_SAMPLE)."""

GUARD_SAMPLE_SHARE: Final = 0.2
"""Share of the possible guards that the sample may be (guard-spec, MAX_SAMPLE_THRESHOLD)..."""

GUARD_MAX_SAMPLE: Final = 60
"""... and guards it may have at most (guard-spec, MAX_SAMPLE_SIZE)."""

GUARD_LIFETIME: Final = 120 * DAY
"""Seconds after which a guard is replaced (guard-spec, GUARD_LIFETIME)..."""

GUARD_CONFIRMED_LIFETIME: Final = 60 * DAY
"""... unless it was confirmed less than this ago (guard-spec, GUARD_CONFIRMED_MIN_LIFETIME)."""

GUARD_UNLISTED_LIFETIME: Final = 20 * DAY
"""Seconds a guard that no directory lists is kept (guard-spec, REMOVE_UNLISTED_GUARDS_AFTER)."""

GUARD_MIN_AGE: Final = 3 * DAY
"""Seconds a relay has been known before it may become a guard; a setting.  Tor waits 8 days, but its relays stay for
months: a peer-to-peer network renews half of its relays in weeks."""

GUARD_FIRST_VIEW: Final = 3600.0
"""Seconds from a client's first view of the network in which a relay counts as one that was always there."""

GUARD_NEW_PER_MONTH: Final = 10
"""Relays that may see us as their client for the first time in GUARD_MONTH.  A censor who blocks guards until one of
his is reached gets this many draws.  Tor's bound is its sample: 60 in 120 days."""

GUARD_MONTH: Final = 30 * DAY

GUARD_PRIMARY_RETRY: Final = (30.0, 6 * 3600.0)
"""Shortest and longest seconds until an unreachable primary guard is tried again (guard-spec; Tor prop 336)."""

GUARD_RETRY: Final = (600.0, 36 * 3600.0)
"""The same for the other guards (guard-spec; Tor prop 336)."""

GUARD_CONNECT_TIMEOUT: Final = 15.0
"""Seconds a better guard that is being tried holds up circuits through a worse one (guard-spec,
NONPRIMARY_GUARD_CONNECT_TIMEOUT)."""

GUARD_OFFLINE: Final = 600.0
"""Seconds without any success after which we were offline, and the primaries deserve another try (guard-spec,
INTERNET_LIKELY_DOWN_INTERVAL)."""

GUARD_MAX_STEP: Final = 7 * DAY
"""Seconds that guards age at most between two looks at the clock: one that jumps years ahead makes none old."""

SECOND_GUARDS: Final = 4
"""Second hops that circuits of onion services keep to (Tor prop 333, NUM_LAYER2_GUARDS)."""

SECOND_GUARD_LIFETIME: Final = (1 * DAY, 12 * DAY)
"""Seconds one is kept: the larger of two uniform draws between these, 8.3 days in the mean (Tor prop 333; entrynodes.c,
MIN_ and MAX_SECOND_GUARD_LIFETIME)."""

BIAS_MIN_CIRCUITS: Final = 50
"""Circuits begun through a guard before their success says anything.  Tor has 150 (pb_mincircs); our clients build
fewer.  A guard with 60 % success is below BIAS_OUT after 50 with probability 1e-5."""

BIAS_NOTICE: Final = 0.7
BIAS_WARN: Final = 0.5
BIAS_OUT: Final = 0.3
"""Shares of circuits that succeed below which a guard is noted, warned of, and not used (Tor path-spec: pb_noticepct,
pb_warnpct, pb_extremepct with pb_dropguards)."""

BIAS_SCALE: Final = 300
"""Circuits begun at which a guard's counts are halved, so that the past fades (pb_scalecircs, pb_multfactor)."""

BIAS_MIN_USES: Final = 20
"""Circuits used before their success says anything (pb_minuse)."""

BIAS_USE_NOTICE: Final = 0.8
BIAS_USE_OUT: Final = 0.6
"""The same for circuits that were open: shares that carried something (pb_noticeusepct, pb_extremeusepct)."""

BIAS_USE_SCALE: Final = 100
"""Uses at which the counts are halved (pb_scaleuse)."""

KEEP_EXIT_TRIES: Final = 8
"""Failed builds after which an exit is given up.  Each costs a guard that kills circuits one of the BIAS_MIN_CIRCUITS
that put it out, so it gets rid of six exits at most."""

BLAME_HALF_LIFE: Final = 1800.0
"""Seconds in which the blame of a pair of relays halves."""

BLAME_PARTNERS: Final = 3
"""Partners that failed with a relay, and none worked since, before it is avoided with everybody: fewer could frame
it."""

BLAME_FLOOR: Final = 0.02
"""Share of its chance that the most blamed relay keeps: blame is a reason to look elsewhere first, not a verdict."""

MAX_BLAMED_PAIRS: Final = 4096
"""Pairs that are remembered; the least blamed goes first."""

MAX_RELAY_SHARE: Final = 0.02
"""Share of the whole that no relay has more of, in a network of at least 2 / 0.02 = 100 relays."""

MAX_NETWORK_SHARE: Final = 0.05
"""Share of the whole that no /16 (or /32 of IPv6) has more of, in a network with at least 2 / 0.05 = 40 of them."""

SHARE_ROOM: Final = 2.0
"""Times an equal share that the caps leave in a smaller network, so that weights mean something there too."""

MEASURED_SAMPLES: Final = 3
"""Measurements of a relay before they count: one slow neighbour is no slow relay."""

MEASURED_RELAYS: Final = 5
"""Measured relays before they set the scale for the others."""

MEASURED_GAIN: Final = 0.2
"""Weight of the newest measurement (EWMA), once there are 1 / 0.2."""

MEASURED_LIFETIME: Final = 7 * DAY
"""Seconds after which the last measurement of a relay is forgotten."""

MAX_MEASURED: Final = 4096
"""Relays whose measurements are kept; the one measured longest ago goes first."""

BUILD_SAMPLES: Final = 1000
"""Build times that are remembered (Tor path-spec, learning timeouts)."""

BUILD_MIN_SAMPLES: Final = 100
"""Build times before the timeout is learned (cbtmincircs)."""

BUILD_BIN: Final = 0.01
"""Seconds to which build times are rounded (Tor: CBT_BIN_WIDTH)."""

BUILD_QUANTILE: Final = 0.8
"""Share of circuits that are built before the timeout (cbtquantile)."""

BUILD_GIVE_UP_QUANTILE: Final = 0.99
"""Share that are built before they are given up; between the two a circuit only teaches (cbtclosequantile)."""

BUILD_INITIAL_TIMEOUT: Final = 30.0
"""Seconds for three hops while nothing is learned: three times HOP_TIMEOUT.  Tor has 60 (cbtinitialtimeout)."""

BUILD_MIN_TIMEOUT: Final = 0.5
"""Seconds a timeout is never below.  Tor: 10 ms (cbtmintimeout), but its cells are not lost: ours need room for the
first repetition of a CREATE on a slow machine."""

BUILD_MAX_TIMEOUT: Final = 120.0
"""Seconds a timeout is never above."""

BUILD_RECENT: Final = 20
"""Builds that are looked at for a change of network (cbtrecentcount)..."""

BUILD_MAX_RECENT_TIMEOUTS: Final = 18
"""... and timeouts among them at which all that was learned is dropped (cbtmaxtimeouts)."""

WALK_INTERVAL: Final = 1.0
"""Seconds between IPv8 introductions that a node asks for while it knows too few relays."""

WALK_INTERVAL_FED: Final = 30.0
"""Seconds between introductions that a relay asks for when it knows enough, so that newcomers are noticed."""

ASK_TIMEOUT: Final = 5.0
"""Seconds after which somebody who was asked for an introduction is forgotten."""

MAX_PEERS: Final = 256
"""Relays that a node remembers having met, for introductions; a newcomer is answered all the same."""

MAX_INTRODUCED_ADDRESSES: Final = 256
"""Addresses that wait to be asked.  One is asked a second, and each answer brings one."""

INITIAL_RTT: Final = 0.333
"""Seconds, before the first sample (RFC 9002 6.2.2)."""

TIMER_GRANULARITY: Final = 0.001
"""Seconds (RFC 9002 6.1.2): an event loop is no finer."""

PACKET_THRESHOLD: Final = 3
"""Later packets that were acknowledged when one counts as lost (RFC 9002 6.1.1)."""

MAX_PACKET_THRESHOLD: Final = 128
"""What PACKET_THRESHOLD grows to on a path that reorders: one that was called lost and came after all teaches it."""

TIME_THRESHOLD: Final = 9 / 8
"""Round trips after which a packet below an acknowledged one counts as lost (RFC 9002 6.1.2)."""

PERSISTENT_CONGESTION: Final = 3
"""Probe timeouts in which everything was lost (RFC 9002 7.6.1)."""

MAX_PROBE_TIMEOUT: Final = 30.0
"""Seconds the probe timeout doubles up to: the circuit's own PING gives up after 40."""

PROBES: Final = 2
"""Packets of one probe timeout (RFC 9002 6.2.4)."""

MAX_LATE: Final = 1024
"""Packets called lost whose late acknowledgement is still recognised."""

SKIP_EVERY: Final = 512
"""A sender leaves out one packet number in 64 to 2 * 512 - 64, at random: who acknowledges it did not read (RFC 9000
21.4)."""

ACK_START: Final = 64
"""Packets of a circuit that are acknowledged every ACK_START_EVERY: the far end is still looking for its rate."""

ACK_START_EVERY: Final = 4

ACK_MIN_DELAY: Final = 0.002
"""Seconds an ACK waits at least when its packet is alone: an answer may carry it."""

RECEIVED_RANGES: Final = 64
"""Ranges of packet numbers a receiver remembers; what is below the oldest counts as seen."""

INITIAL_WINDOW: Final = 32
"""Cells of the first flight: 43 kB (RFC 9002 7.2 has 10 packets of 1200; CDNs send 30 to 60)."""

MIN_WINDOW: Final = 4
"""Cells (BBR: BBRMinPipeCwnd; RFC 9002 7.2 has 2)."""

PACING_QUANTUM: Final = 0.001
"""Seconds of its rate that a sender lets go at once: the granularity of an event loop."""

MAX_WINDOW: Final = 16 << 20
"""Bytes of receive credit, of a stream and of all of a circuit, where the reader keeps up: 200 Mbit/s times 400 ms is
10 MB.  It starts at the initial credit and doubles when half of it was read within two round trips."""

SEND_BUFFER: Final = 256 << 10
"""Bytes a stream keeps for sending while the congestion window is small; twice that window when it is larger."""

TOTAL_SEND_BUFFER: Final = 1 << 20
"""Bytes all streams of a circuit keep for sending, likewise..."""

STREAM_SHARE: Final = 4096
"""... but every stream may keep this many, so that none waits for others: 4 MB for 1024 streams."""

MAX_GAPS: Final = 1024
"""Gaps in what a stream has received; a packet that would make one more is treated as lost."""

TOTAL_GAPS: Final = 4096
"""The same for all streams of a circuit."""

MAX_DIALLED: Final = 4
"""Addresses at which one link key is looked for at one time."""

SHARES_LIFETIME: Final = 60.0
"""Seconds for which the shares of relays are good while no relay comes or goes: what was measured moves slowly."""

EXIT_WITNESSES: Final = 2
"""Relays that must have said, each on a circuit of its own, that an exit does not answer before it is given up."""

GUARD_OFFLINE_RETRY: Final = 60.0
"""Seconds between tries of all guards while none answers: then it is probably our own network that is gone."""
