//! The messages that are known, by etcd's own words (`server/**/*.go`, `raft/*.go` of 3.5, 3.6, 3.7; 3.4's capnslog texts).

use super::Take::{self, Bool, Cause, Id, Ns, Number, Word, Words};

/// What else has to be done with a structured line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Nothing.
    Plain,
    /// Its request is described.
    SlowApply,
}

/// A structured message.
#[derive(Debug)]
pub struct ZapRow {
    /// The whole message, or its begin when it ends with `*`.
    pub message: &'static str,
    /// The event.
    pub kind: &'static str,
    /// (field of the line, name in the details, how it is taken).
    pub fields: &'static [(&'static str, &'static str, Take)],
    /// Details that the message itself says.
    pub fixed: &'static [(&'static str, &'static str)],
    /// What else.
    pub shape: Shape,
}

impl ZapRow {
    /// Whether this is the message.
    pub fn matches(&self, message: &str) -> bool {
        match self.message.strip_suffix('*') {
            Some(begin) => message.starts_with(begin),
            None => message == self.message,
        }
    }
}

/// A message as text: of raft in all versions, of everything in 3.4.
#[derive(Debug)]
pub struct TextRow {
    /// With `{}` for each value.
    pub pattern: &'static str,
    /// The event.
    pub kind: &'static str,
    /// (name in the details, how it is taken), one for each `{}`; a value without a name is not taken.
    pub captures: &'static [(&'static str, Take)],
    /// Details that the message itself says.
    pub fixed: &'static [(&'static str, &'static str)],
}

type Fields = &'static [(&'static str, &'static str, Take)];
type Captures = &'static [(&'static str, Take)];
type Fixed = &'static [(&'static str, &'static str)];

const fn zap(message: &'static str, kind: &'static str, fields: Fields, fixed: Fixed) -> ZapRow {
    ZapRow { message, kind, fields, fixed, shape: Shape::Plain }
}

const fn text(pattern: &'static str, kind: &'static str, captures: Captures, fixed: Fixed) -> TextRow {
    TextRow { pattern, kind, captures, fixed }
}

const PEER_SNAPSHOT: Fields = &[
    ("remote-peer-id", "peer", Id),
    ("snapshot-index", "index", Number),
    ("bytes", "size_bytes", Number),
    ("error", "cause", Cause),
];
const MEMBER_IDS: Fields = &[
    ("added-peer-id", "member", Id),
    ("added-peer-peer-urls", "peer_urls", Words),
    ("added-peer-is-learner", "learner", Bool),
    ("removed-remote-peer-id", "member", Id),
    ("promoted-member-id", "member", Id),
    ("updated-remote-peer-id", "member", Id),
    ("updated-remote-peer-urls", "peer_urls", Words),
];
const HASHES: Fields = &[
    ("remote-peer-id", "peer", Id),
    ("leader-id", "leader", Id),
    ("leader-revision", "revision", Number),
    ("leader-compact-revision", "compact_revision", Number),
    ("local-member-revision", "revision", Number),
    ("local-member-compact-revision", "compact_revision", Number),
    ("revision-1", "revision", Number),
    ("compact-revision-1", "compact_revision", Number),
];
const VERSIONS: Fields = &[
    ("from", "from", Word),
    ("to", "to", Word),
    ("cluster-version", "to", Word),
    ("target-cluster-version", "to", Word),
    ("remote-member-id", "peer", Id),
    ("remote-member-version", "peer_version", Word),
    ("current-server-version", "version", Word),
    ("target-version", "to", Word),
];
const DROPPED: Fields = &[("message-type", "message_type", Word), ("remote-peer-id", "peer", Id)];
const STREAM: Fields = &[
    ("remote-peer-id", "peer", Id),
    ("stream-reader-type", "stream", Word),
    ("stream-writer-type", "stream", Word),
    ("error", "cause", Cause),
];
const PROBE: Fields = &[
    ("remote-peer-id", "peer", Id),
    ("round-tripper-name", "prober", Word),
    ("rtt", "rtt_ns", Ns),
    ("clock-drift", "drift_ns", Ns),
    ("error", "cause", Cause),
];

/// Structured messages.
pub const ZAP: &[ZapRow] = &[
    ZapRow {
        message: "apply request took too long",
        kind: "etcd.slow_apply",
        fields: &[("took", "took_ns", Ns), ("expected-duration", "expected_ns", Ns)],
        fixed: &[],
        shape: Shape::SlowApply,
    },
    zap(
        "request stats",
        "etcd.slow_request",
        &[
            ("time spent", "took_ns", Ns),
            ("remote", "client", Word),
            ("response type", "method", Word),
            ("request count", "request_count", Number),
            ("request size", "request_size_bytes", Number),
            ("response count", "response_count", Number),
            ("response size", "response_size_bytes", Number),
        ],
        &[],
    ),
    zap(
        "slow fdatasync",
        "etcd.slow_fdatasync",
        &[("took", "took_ns", Ns), ("expected-duration", "expected_ns", Ns)],
        &[],
    ),
    zap(
        "leader failed to send out heartbeat on time*",
        "etcd.heartbeat_late",
        &[
            ("to", "peer", Id),
            ("heartbeat-interval", "interval_ns", Ns),
            ("expected-duration", "expected_ns", Ns),
            ("exceeded-duration", "late_ns", Ns),
        ],
        &[],
    ),
    zap(
        "waiting for ReadIndex response took too long, retrying",
        "etcd.read_index_slow",
        &[("retry-timeout", "waited_ns", Ns)],
        &[("outcome", "retry")],
    ),
    zap(
        "timed out waiting for read index response*",
        "etcd.read_index_slow",
        &[("timeout", "waited_ns", Ns)],
        &[("outcome", "timeout")],
    ),
    zap(
        "dropped internal Raft message since sending buffer is full*",
        "etcd.raft_message_dropped",
        DROPPED,
        &[],
    ),
    zap("lost TCP streaming connection with remote peer", "etcd.peer_stream_lost", STREAM, &[]),
    zap(
        "peer became inactive*",
        "etcd.peer_inactive",
        &[("peer-id", "peer", Id), ("error", "cause", Cause)],
        &[],
    ),
    zap("peer became active", "etcd.peer_active", &[("peer-id", "peer", Id)], &[]),
    zap("prober detected unhealthy status", "etcd.peer_unhealthy", PROBE, &[]),
    zap("prober found high clock drift", "etcd.clock_drift", PROBE, &[]),
    zap(
        "rejected Raft message from removed member",
        "etcd.removed_member_message",
        &[("removed-member-id", "peer", Id)],
        &[],
    ),
    zap(
        "rejected Raft message to mismatch member",
        "etcd.mismatched_member_message",
        &[("mismatch-member-id", "addressed", Id)],
        &[],
    ),
    zap(
        "request cluster ID mismatch",
        "etcd.cluster_id_mismatch",
        &[
            ("local-member-cluster-id", "cluster", Id),
            ("remote-peer-cluster-id", "peer_cluster", Id),
            ("remote-peer-server-name", "peer", Id),
            ("remote-peer-server-version", "peer_version", Word),
        ],
        &[],
    ),
    zap(
        "message exceeded backend quota; raising alarm",
        "etcd.quota_exceeded",
        &[("quota-size-bytes", "quota_bytes", Number)],
        &[],
    ),
    zap("found hash mismatch", "etcd.hash_mismatch", HASHES, &[]),
    zap("found different hash values from remote peer", "etcd.hash_mismatch", HASHES, &[]),
    zap("Detected compaction hash mismatch*", "etcd.hash_mismatch", HASHES, &[]),
    zap(
        "finished scheduled compaction",
        "etcd.compaction_finished",
        &[
            ("compact-revision", "revision", Number),
            ("took", "took_ns", Ns),
            ("hash", "hash", Number),
            ("number-of-keys-compacted", "keys", Number),
            ("current-db-size-bytes", "db_size_bytes", Number),
            ("current-db-size-in-use-bytes", "db_in_use_bytes", Number),
        ],
        &[],
    ),
    zap("starting defragment", "etcd.defrag_started", &[], &[]),
    zap(
        "finished defragmenting directory",
        "etcd.defrag_finished",
        &[
            ("current-db-size-bytes", "db_size_bytes", Number),
            ("current-db-size-bytes-diff", "db_size_diff_bytes", Number),
            ("current-db-size-in-use-bytes", "db_in_use_bytes", Number),
            ("took", "took_ns", Ns),
        ],
        &[],
    ),
    zap("failed to defragment", "etcd.defrag_failed", &[("error", "cause", Cause)], &[]),
    zap(
        "sending database snapshot to client",
        "etcd.snapshot_started",
        &[("total-bytes", "size_bytes", Number)],
        &[("to", "client")],
    ),
    zap(
        "successfully sent database snapshot to client",
        "etcd.snapshot_sent",
        &[("total-bytes", "size_bytes", Number), ("took", "took_ns", Ns)],
        &[("to", "client")],
    ),
    zap(
        "snapshotting taking too long to transfer",
        "etcd.snapshot_slow",
        &[("taking", "took_ns", Ns), ("bytes", "size_bytes", Number)],
        &[],
    ),
    zap(
        "triggering snapshot",
        "raft.snapshot_triggered",
        &[("local-member-applied-index", "index", Number)],
        &[],
    ),
    zap("saved snapshot", "raft.snapshot_saved", &[("snapshot-index", "index", Number)], &[]),
    zap("saved snapshot to disk", "raft.snapshot_saved", &[("snapshot-index", "index", Number)], &[]),
    zap("sending database snapshot", "etcd.peer_snapshot_started", PEER_SNAPSHOT, &[]),
    zap("sent database snapshot", "etcd.peer_snapshot_sent", PEER_SNAPSHOT, &[]),
    zap("failed to send database snapshot*", "etcd.peer_snapshot_failed", PEER_SNAPSHOT, &[]),
    zap(
        "receiving database snapshot",
        "etcd.peer_snapshot_receiving",
        &[("remote-snapshot-sender-id", "peer", Id), ("incoming-snapshot-index", "index", Number)],
        &[],
    ),
    zap(
        "received and saved database snapshot",
        "etcd.peer_snapshot_received",
        &[
            ("remote-snapshot-sender-id", "peer", Id),
            ("incoming-snapshot-index", "index", Number),
            ("incoming-snapshot-size-bytes", "size_bytes", Number),
            ("download-took", "took_ns", Ns),
        ],
        &[],
    ),
    zap("created a new WAL segment", "etcd.wal_segment_created", &[], &[]),
    zap("repairing", "etcd.wal_repaired", &[], &[]),
    zap(
        "80% of file descriptors are used",
        "etcd.file_descriptors_high",
        &[("used", "used", Number), ("limit", "limit", Number)],
        &[],
    ),
    zap("added member", "etcd.member_added", MEMBER_IDS, &[]),
    zap("removed member", "etcd.member_removed", MEMBER_IDS, &[]),
    zap("promote member", "etcd.member_promoted", MEMBER_IDS, &[]),
    zap("updated member", "etcd.member_updated", MEMBER_IDS, &[]),
    zap(
        "leadership transfer starting",
        "raft.leader_transfer_started",
        &[("current-leader-member-id", "from", Id), ("transferee-member-id", "to", Id)],
        &[],
    ),
    zap(
        "leadership transfer finished",
        "raft.leader_transfer_finished",
        &[("old-leader-member-id", "from", Id), ("new-leader-member-id", "to", Id), ("took", "took_ns", Ns)],
        &[],
    ),
    zap("updated cluster version", "etcd.cluster_version", VERSIONS, &[]),
    zap("set initial cluster version", "etcd.cluster_version", VERSIONS, &[]),
    zap("cluster is downgrading to target version", "etcd.cluster_downgrading", VERSIONS, &[]),
    zap("leader found higher-versioned member", "etcd.version_skew", VERSIONS, &[]),
    zap("remotes server has mismatching etcd version", "etcd.version_skew", VERSIONS, &[]),
    zap("alarm raised", "etcd.alarm_raised", &[("alarm", "alarm", Word), ("from", "member", Id)], &[]),
    zap("alarm disarmed", "etcd.alarm_disarmed", &[("alarm", "alarm", Word), ("from", "member", Id)], &[]),
    zap("ready to serve client requests", "etcd.ready", &[], &[]),
    zap("received signal; shutting down", "etcd.stopping", &[("signal", "signal", Word)], &[]),
    zap("etcd server has been removed*", "etcd.removed_from_cluster", &[], &[]),
    zap("server error", "etcd.server_error", &[("error", "cause", Cause)], &[]),
];

/// Messages as text. Raft's come first: all versions have them.
pub const TEXT: &[TextRow] = &[
    text(
        "raft.node: {} elected leader {} at term {}",
        "raft.leader_elected",
        &[("", Id), ("leader", Id), ("term", Number)],
        &[],
    ),
    text(
        "raft.node: {} changed leader from {} to {} at term {}",
        "raft.leader_changed",
        &[("", Id), ("from", Id), ("leader", Id), ("term", Number)],
        &[],
    ),
    text(
        "raft.node: {} lost leader {} at term {}",
        "raft.leader_lost",
        &[("", Id), ("leader", Id), ("term", Number)],
        &[],
    ),
    text("{} is starting a new election at term {}", "raft.campaign", &[("", Id), ("term", Number)], &[]),
    text("{} became leader at term {}", "raft.role", &[("", Id), ("term", Number)], &[("role", "leader")]),
    text(
        "{} became follower at term {}",
        "raft.role",
        &[("", Id), ("term", Number)],
        &[("role", "follower")],
    ),
    text(
        "{} became candidate at term {}",
        "raft.role",
        &[("", Id), ("term", Number)],
        &[("role", "candidate")],
    ),
    text(
        "{} became pre-candidate at term {}",
        "raft.role",
        &[("", Id), ("term", Number)],
        &[("role", "pre-candidate")],
    ),
    text(
        "{} no leader at term {}; dropping proposal",
        "raft.proposal_dropped",
        &[("", Id), ("term", Number)],
        &[],
    ),
    text(
        "{} [term {}] starts to transfer leadership to {}",
        "raft.leader_transfer_started",
        &[("from", Id), ("term", Number), ("to", Id)],
        &[],
    ),
    text("{} stepped down to follower since quorum is not active", "raft.quorum_lost", &[("", Id)], &[]),
    text(
        "sync duration of {}, expected less than {}",
        "etcd.slow_fdatasync",
        &[("took_ns", Ns), ("expected_ns", Ns)],
        &[],
    ),
    text(
        "failed to send out heartbeat on time (exceeded the {} timeout for {}, to {})",
        "etcd.heartbeat_late",
        &[("interval_ns", Ns), ("late_ns", Ns), ("peer", Id)],
        &[],
    ),
    text("peer {} became inactive (message send to peer failed)", "etcd.peer_inactive", &[("peer", Id)], &[]),
    text("peer {} became active", "etcd.peer_active", &[("peer", Id)], &[]),
    text(
        "lost the TCP streaming connection with peer {} (stream {})",
        "etcd.peer_stream_lost",
        &[("peer", Id), ("", Word)],
        &[],
    ),
    text(
        "health check for peer {} could not connect: {}",
        "etcd.peer_unhealthy",
        &[("peer", Id), ("cause", Cause)],
        &[],
    ),
    text(
        "the clock difference against peer {} is too high [{} > {}]",
        "etcd.clock_drift",
        &[("peer", Id), ("drift_ns", Ns), ("", Ns)],
        &[],
    ),
    text(
        "dropped internal raft message to {} since {}",
        "etcd.raft_message_dropped",
        &[("peer", Id), ("", Word)],
        &[],
    ),
    text("dropped MsgAppResp to {} since {}", "etcd.raft_message_dropped", &[("peer", Id), ("", Word)], &[]),
    text(
        "request cluster ID mismatch (got {} want {})",
        "etcd.cluster_id_mismatch",
        &[("peer_cluster", Id), ("cluster", Id)],
        &[],
    ),
    text("reject message from removed member {}", "etcd.removed_member_message", &[("peer", Id)], &[]),
    text(
        "finished scheduled compaction at {} (took {})",
        "etcd.compaction_finished",
        &[("revision", Number), ("took_ns", Ns)],
        &[],
    ),
    text("starting to defragment the storage backend...", "etcd.defrag_started", &[], &[]),
    text("finished defragmenting the storage backend", "etcd.defrag_finished", &[], &[]),
    text("failed to defragment the storage backend ({})", "etcd.defrag_failed", &[("cause", Cause)], &[]),
    text(
        "sending database snapshot to client {} [{} bytes]",
        "etcd.snapshot_started",
        &[("", Word), ("size_bytes", Number)],
        &[("to", "client")],
    ),
    text(
        "successfully sent database snapshot to client {} [{} bytes]",
        "etcd.snapshot_sent",
        &[("", Word), ("size_bytes", Number)],
        &[("to", "client")],
    ),
    text(
        "start to snapshot (applied: {}, lastsnap: {})",
        "raft.snapshot_triggered",
        &[("index", Number), ("", Number)],
        &[],
    ),
    text("saved snapshot at index {}", "raft.snapshot_saved", &[("index", Number)], &[]),
    text(
        "start to send database snapshot [index: {}, to {}, size {}]...",
        "etcd.peer_snapshot_started",
        &[("index", Number), ("peer", Id), ("", Word)],
        &[],
    ),
    text(
        "database snapshot [index: {}, to: {}] sent out successfully",
        "etcd.peer_snapshot_sent",
        &[("index", Number), ("peer", Id)],
        &[],
    ),
    text(
        "receiving database snapshot [index: {}, from: {}, raft message size: {}]",
        "etcd.peer_snapshot_receiving",
        &[("index", Number), ("peer", Id), ("", Word)],
        &[],
    ),
    text("segmented wal file {} is created", "etcd.wal_segment_created", &[("", Word)], &[]),
    text("repairing {}", "etcd.wal_repaired", &[("", Word)], &[]),
    text(
        "80% of the file descriptor limit is used [used = {}, limit = {}]",
        "etcd.file_descriptors_high",
        &[("used", Number), ("limit", Number)],
        &[],
    ),
    text(
        "added member {} [{}] to cluster {}",
        "etcd.member_added",
        &[("member", Id), ("", Word), ("", Id)],
        &[],
    ),
    text("removed member {} from cluster {}", "etcd.member_removed", &[("member", Id), ("", Id)], &[]),
    text("promote member {} in cluster {}", "etcd.member_promoted", &[("member", Id), ("", Id)], &[]),
    text(
        "updated member {} [{}] in cluster {}",
        "etcd.member_updated",
        &[("member", Id), ("", Word), ("", Id)],
        &[],
    ),
    text(
        "{} starts leadership transfer from {} to {}",
        "raft.leader_transfer_started",
        &[("", Id), ("from", Id), ("to", Id)],
        &[],
    ),
    text(
        "{} finished leadership transfer from {} to {} (took {})",
        "raft.leader_transfer_finished",
        &[("", Id), ("from", Id), ("to", Id), ("took_ns", Ns)],
        &[],
    ),
    text(
        "updated the cluster version from {} to {}",
        "etcd.cluster_version",
        &[("from", Word), ("to", Word)],
        &[],
    ),
    text("set the initial cluster version to {}", "etcd.cluster_version", &[("to", Word)], &[]),
    text("alarm {} raised by peer {}", "etcd.alarm_raised", &[("alarm", Word), ("member", Id)], &[]),
    text("received {} signal, shutting down...", "etcd.stopping", &[("signal", Word)], &[]),
    text("the member has been permanently removed from the cluster", "etcd.removed_from_cluster", &[], &[]),
];

/// All kinds of events, sorted.
pub fn kinds() -> Vec<&'static str> {
    let own = ["etcd.trace"];
    let all = ZAP.iter().map(|row| row.kind).chain(TEXT.iter().map(|row| row.kind)).chain(own);
    let mut kinds: Vec<&'static str> = all.collect();
    kinds.sort_unstable();
    kinds.dedup();
    kinds
}
