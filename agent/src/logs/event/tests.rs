//! Every kind against a line as etcd writes it. Lines marked `real` were written by the etcds of the lab; the others follow the
//! format strings of etcd's source.

use std::collections::BTreeSet;

use super::super::line::parse;
use super::*;

/// (line, kind, details as JSON).
const LINES: &[(&str, &str, &str)] = &[
    (
        r#"{"level":"warn","ts":"2026-11-21T12:00:00.000Z","caller":"etcdserver/util.go:170","msg":"apply request took too long","took":"212.5ms","expected-duration":"100ms","prefix":"read-only range ","request":"key:\"/secret/MARKER\" range_end:\"/secret/MARKER0\" limit:500 ","response":"range_response_count:12 size:3456","error":""}"#,
        "etcd.slow_apply",
        r#"{"took_ns":212500000,"expected_ns":100000000,"operation":"range","read_only":true,"response_count":12,"response_size_bytes":3456,"failed":false}"#,
    ),
    (
        r#"{"level":"warn","ts":"2026-11-21T12:00:00.000Z","msg":"apply request took too long","took":"1.5s","expected-duration":"100ms","prefix":"","request":"header:<ID:123 > txn:<compare:<target:MOD key:\"MARKER \\\" put:<x\" mod_revision:0 > success:<request_put:<key:\"MARKER\" value_size:48 >> success:<request_put:<key:\"MARKER2\" value_size:2 >>>","response":"size:19","error":"context MARKER"}"#,
        "etcd.slow_apply",
        r#"{"took_ns":1500000000,"expected_ns":100000000,"operation":"txn","read_only":false,"value_size_bytes":50,"response_size_bytes":19,"failed":true}"#,
    ),
    (
        r#"2026-11-21 12:00:00.000000 W | etcdserver: read-only range request "key:\"MARKER\" with result \" \" " with result "range_response_count:1 size:5" took too long (123.4ms) to execute"#,
        "etcd.slow_apply",
        r#"{"took_ns":123400000,"operation":"range","read_only":true,"response_count":1,"response_size_bytes":5,"failed":false}"#,
    ),
    (
        r#"2026-11-21 12:00:00.000000 W | etcdserver: request "header:<ID:1 > put:<key:\"MARKER\" value_size:31337 >" with result "size:6" took too long (2.4s) to execute"#,
        "etcd.slow_apply",
        r#"{"took_ns":2400000000,"operation":"put","read_only":false,"value_size_bytes":31337,"response_size_bytes":6,"failed":false}"#,
    ),
    (
        r#"{"level":"warn","ts":"2026-11-21T12:00:00.000Z","msg":"request stats","start time":"2026-11-21T11:59:59.000Z","time spent":"345ms","remote":"10.0.0.7:40434","response type":"/etcdserverpb.KV/Txn","request count":1,"request size":70,"response count":0,"response size":39,"request content":"compare:<key:\"MARKER\" > success:<request_put:<key:\"MARKER\" value_size:6 >>"}"#,
        "etcd.slow_request",
        r#"{"took_ns":345000000,"client":"10.0.0.7:40434","method":"/etcdserverpb.KV/Txn","request_count":1,"request_size_bytes":70,"response_count":0,"response_size_bytes":39}"#,
    ),
    (
        r#"{"level":"info","ts":"2026-11-21T12:00:00.000Z","msg":"trace[1337] linearizableReadLoop","detail":"{readStateIndex:7; appliedIndex:7; key:MARKER; }","duration":"180ms","start":"x","end":"y","steps":["trace[1337] 'read index received'  (duration: 170.5ms)","trace[1337] 'range keys from in-memory index tree' {key:MARKER} (duration: 1ms)","trace[1337] 'MARKER{' (duration: 9s)"],"step_count":2}"#,
        "etcd.trace",
        r#"{"operation":"linearizableReadLoop","took_ns":180000000,"longest_step":"read index received","longest_step_ns":170500000}"#,
    ),
    (
        r#"{"level":"warn","ts":"2026-11-21T12:00:00.000Z","msg":"slow fdatasync","took":"1.2s","expected-duration":"1s"}"#,
        "etcd.slow_fdatasync",
        r#"{"took_ns":1200000000,"expected_ns":1000000000}"#,
    ),
    (
        "2026-11-21 12:00:00.000000 W | wal: sync duration of 1.2s, expected less than 1s",
        "etcd.slow_fdatasync",
        r#"{"took_ns":1200000000,"expected_ns":1000000000}"#,
    ),
    (
        r#"{"level":"warn","ts":"2026-11-21T12:00:00.000Z","msg":"leader failed to send out heartbeat on time; took too long, leader is overloaded likely from slow disk","to":"a759d8e1c4eeb940","heartbeat-interval":"100ms","expected-duration":"200ms","exceeded-duration":"33ms"}"#,
        "etcd.heartbeat_late",
        r#"{"peer":"a759d8e1c4eeb940","interval_ns":100000000,"expected_ns":200000000,"late_ns":33000000}"#,
    ),
    (
        "2026-11-21 12:00:00.000000 W | etcdserver: failed to send out heartbeat on time (exceeded the 100ms timeout for 33ms, to a759d8e1c4eeb940)",
        "etcd.heartbeat_late",
        r#"{"peer":"a759d8e1c4eeb940","interval_ns":100000000,"late_ns":33000000}"#,
    ),
    (
        r#"{"level":"warn","ts":"2026-11-21T12:00:00.000Z","msg":"waiting for ReadIndex response took too long, retrying","sent-request-id":17,"retry-timeout":"500ms"}"#,
        "etcd.read_index_slow",
        r#"{"waited_ns":500000000,"outcome":"retry"}"#,
    ),
    (
        "2026-11-21 12:00:00.000000 W | etcdserver: timed out waiting for read index response (local node might have slow network)",
        "etcd.read_index_slow",
        r#"{"outcome":"timeout"}"#,
    ),
    (
        r#"{"level":"warn","ts":"2026-11-21T12:00:00.000Z","msg":"dropped internal Raft message since sending buffer is full (overloaded network)","message-type":"MsgHeartbeat","local-member-id":"1","from":"1","remote-peer-id":"ab","remote-peer-active":false}"#,
        "etcd.raft_message_dropped",
        r#"{"message_type":"MsgHeartbeat","peer":"00000000000000ab"}"#,
    ),
    (
        "2026-11-21 12:00:00.000000 W | rafthttp: dropped internal raft message to ab since sending buffer is full (bad/overloaded network)",
        "etcd.raft_message_dropped",
        r#"{"peer":"00000000000000ab"}"#,
    ),
    (
        r#"{"level":"warn","ts":"2026-11-21T12:00:00.000Z","msg":"lost TCP streaming connection with remote peer","stream-reader-type":"stream Message","local-member-id":"1","remote-peer-id":"ab","error":"EOF"}"#,
        "etcd.peer_stream_lost",
        r#"{"peer":"00000000000000ab","stream":"stream Message","cause":"EOF"}"#,
    ),
    (
        "2026-11-21 12:00:00.000000 W | rafthttp: lost the TCP streaming connection with peer ab (stream MsgApp v2 reader)",
        "etcd.peer_stream_lost",
        r#"{"peer":"00000000000000ab"}"#,
    ),
    (
        r#"{"level":"warn","ts":"2026-11-21T12:00:00.000Z","msg":"peer became inactive (message send to peer failed)","peer-id":"ab","error":"failed to dial ab on stream Message (EOF)"}"#,
        "etcd.peer_inactive",
        r#"{"peer":"00000000000000ab","cause":"failed to dial ab on stream Message (EOF)"}"#,
    ),
    (
        "2026-11-21 12:00:00.000000 I | rafthttp: peer ab became inactive (message send to peer failed)",
        "etcd.peer_inactive",
        r#"{"peer":"00000000000000ab"}"#,
    ),
    (
        r#"{"level":"info","ts":"2026-11-21T12:00:00.000Z","msg":"peer became active","peer-id":"ab"}"#,
        "etcd.peer_active",
        r#"{"peer":"00000000000000ab"}"#,
    ),
    (
        "2026-11-21 12:00:00.000000 I | rafthttp: peer ab became active",
        "etcd.peer_active",
        r#"{"peer":"00000000000000ab"}"#,
    ),
    (
        r#"{"level":"warn","ts":"2026-11-21T12:29:37.000Z","msg":"prober detected unhealthy status","round-tripper-name":"ROUND_TRIPPER_SNAPSHOT","remote-peer-id":"56ee37e8e80f8b30","rtt":"0s","error":"dial tcp 127.0.0.1:21204: connect: connection refused"}"#,
        "etcd.peer_unhealthy",
        r#"{"peer":"56ee37e8e80f8b30","prober":"ROUND_TRIPPER_SNAPSHOT","cause":"dial tcp 127.0.0.1:21204: connect: connection refused"}"#,
    ),
    (
        "2026-11-21 12:29:37.248498 W | rafthttp: health check for peer 999e5246b811a468 could not connect: dial tcp 127.0.0.1:21104: connect: connection refused",
        "etcd.peer_unhealthy",
        r#"{"peer":"999e5246b811a468","cause":"dial tcp 127.0.0.1:21104: connect: connection refused"}"#,
    ),
    (
        r#"{"level":"warn","ts":"2026-11-21T12:00:00.000Z","msg":"prober found high clock drift","round-tripper-name":"ROUND_TRIPPER_RAFT_MESSAGE","remote-peer-id":"ab","clock-drift":"1.7s","rtt":"2ms"}"#,
        "etcd.clock_drift",
        r#"{"peer":"00000000000000ab","prober":"ROUND_TRIPPER_RAFT_MESSAGE","rtt_ns":2000000,"drift_ns":1700000000}"#,
    ),
    (
        "2026-11-21 12:00:00.000000 W | rafthttp: the clock difference against peer ab is too high [1.7s > 1s]",
        "etcd.clock_drift",
        r#"{"peer":"00000000000000ab","drift_ns":1700000000}"#,
    ),
    (
        r#"{"level":"warn","ts":"2026-11-21T12:00:00.000Z","msg":"rejected Raft message from removed member","local-member-id":"1","removed-member-id":"ab"}"#,
        "etcd.removed_member_message",
        r#"{"peer":"00000000000000ab"}"#,
    ),
    (
        r#"{"level":"warn","ts":"2026-11-21T12:00:00.000Z","msg":"rejected Raft message to mismatch member","local-member-id":"1","mismatch-member-id":"ab"}"#,
        "etcd.mismatched_member_message",
        r#"{"addressed":"00000000000000ab"}"#,
    ),
    (
        r#"{"level":"warn","ts":"2026-11-21T12:00:00.000Z","msg":"request cluster ID mismatch","local-member-id":"1","local-member-cluster-id":"c1","local-member-server-version":"3.5.35","local-member-server-minimum-cluster-version":"3.0.0","remote-peer-server-name":"ab","remote-peer-server-version":"3.5.35","remote-peer-cluster-id":"c2"}"#,
        "etcd.cluster_id_mismatch",
        r#"{"cluster":"00000000000000c1","peer_cluster":"00000000000000c2","peer":"00000000000000ab","peer_version":"3.5.35"}"#,
    ),
    (
        "2026-11-21 12:00:00.000000 E | rafthttp: request cluster ID mismatch (got c2 want c1)",
        "etcd.cluster_id_mismatch",
        r#"{"cluster":"00000000000000c1","peer_cluster":"00000000000000c2"}"#,
    ),
    (
        r#"{"level":"warn","ts":"2026-11-21T12:00:00.000Z","msg":"message exceeded backend quota; raising alarm","quota-size-bytes":2147483648,"quota-size":"2.1 GB","error":"etcdserver: no space"}"#,
        "etcd.quota_exceeded",
        r#"{"quota_bytes":2147483648}"#,
    ),
    (
        r#"{"level":"warn","ts":"2026-11-21T12:00:00.000Z","msg":"found different hash values from remote peer","remote-peer-id":"ab","local-member-revision":9,"local-member-compact-revision":3,"local-member-hash":1}"#,
        "etcd.hash_mismatch",
        r#"{"peer":"00000000000000ab","revision":9,"compact_revision":3}"#,
    ),
    (
        r#"{"level":"error","ts":"2026-11-21T12:00:00.000Z","msg":"Detected compaction hash mismatch","leader-id":"1","leader-revision":9,"leader-compact-revision":3,"leader-hash":7}"#,
        "etcd.hash_mismatch",
        r#"{"leader":"0000000000000001","revision":9,"compact_revision":3}"#,
    ),
    (
        r#"{"level":"info","ts":"2026-11-21T12:26:49.000Z","msg":"finished scheduled compaction","compact-revision":60,"took":"75.942µs","hash":2355821425,"current-db-size-bytes":36864,"current-db-size":"37 kB","current-db-size-in-use-bytes":36864,"current-db-size-in-use":"37 kB"}"#,
        "etcd.compaction_finished",
        r#"{"revision":60,"took_ns":75942,"hash":2355821425,"db_size_bytes":36864,"db_in_use_bytes":36864}"#,
    ),
    (
        "2026-11-21 12:26:38.976187 I | mvcc: finished scheduled compaction at 60 (took 17.747µs)",
        "etcd.compaction_finished",
        r#"{"revision":60,"took_ns":17747}"#,
    ),
    (
        "2026-11-21 12:26:38.989490 N | etcdserver/api/v3rpc: starting to defragment the storage backend...",
        "etcd.defrag_started",
        "{}",
    ),
    (
        "2026-11-21 12:26:38.991459 N | etcdserver/api/v3rpc: finished defragmenting the storage backend",
        "etcd.defrag_finished",
        "{}",
    ),
    (
        r#"{"level":"info","ts":"2026-11-21T12:26:49.000Z","msg":"finished defragmenting directory","path":"/x/db","current-db-size-bytes-diff":-4096,"current-db-size-bytes":32768,"current-db-size":"33 kB","current-db-size-in-use-bytes-diff":-4096,"current-db-size-in-use-bytes":24576,"current-db-size-in-use":"25 kB","took":"4.378721ms"}"#,
        "etcd.defrag_finished",
        r#"{"db_size_bytes":32768,"db_size_diff_bytes":-4096,"db_in_use_bytes":24576,"took_ns":4378721}"#,
    ),
    (
        "2026-11-21 12:00:00.000000 E | etcdserver/api/v3rpc: failed to defragment the storage backend (no space left on device)",
        "etcd.defrag_failed",
        r#"{"cause":"no space left on device"}"#,
    ),
    (
        "2026-11-21 12:26:39.005113 I | etcdserver/api/v3rpc: sending database snapshot to client 33 kB [32768 bytes]",
        "etcd.snapshot_started",
        r#"{"to":"client","size_bytes":32768}"#,
    ),
    (
        "2026-11-21 12:26:39.005241 I | etcdserver/api/v3rpc: successfully sent database snapshot to client 33 kB [32768 bytes]",
        "etcd.snapshot_sent",
        r#"{"to":"client","size_bytes":32768}"#,
    ),
    (
        r#"{"level":"info","ts":"2026-11-21T12:26:49.000Z","msg":"successfully sent database snapshot to client","total-bytes":32768,"size":"33 kB","took":"193.247µs","storage-version":"3.7.0"}"#,
        "etcd.snapshot_sent",
        r#"{"to":"client","size_bytes":32768,"took_ns":193247}"#,
    ),
    (
        r#"{"level":"warn","ts":"2026-11-21T12:00:00.000Z","msg":"snapshotting taking too long to transfer","taking":"12s","bytes":9,"size":"9 B"}"#,
        "etcd.snapshot_slow",
        r#"{"took_ns":12000000000,"size_bytes":9}"#,
    ),
    (
        "2026-11-21 12:26:38.090499 I | etcdserver: start to snapshot (applied: 51, lastsnap: 0)",
        "raft.snapshot_triggered",
        r#"{"index":51}"#,
    ),
    (
        r#"{"level":"info","ts":"2026-11-21T12:26:49.000Z","msg":"saved snapshot to disk","snapshot-index":51}"#,
        "raft.snapshot_saved",
        r#"{"index":51}"#,
    ),
    (
        "2026-11-21 12:26:38.091868 I | etcdserver: saved snapshot at index 51",
        "raft.snapshot_saved",
        r#"{"index":51}"#,
    ),
    (
        r#"{"level":"info","ts":"2026-11-21T12:00:00.000Z","msg":"sending database snapshot","snapshot-index":51,"remote-peer-id":"ab","bytes":77,"size":"77 B"}"#,
        "etcd.peer_snapshot_started",
        r#"{"peer":"00000000000000ab","index":51,"size_bytes":77}"#,
    ),
    (
        "2026-11-21 12:00:00.000000 I | rafthttp: database snapshot [index: 51, to: ab] sent out successfully",
        "etcd.peer_snapshot_sent",
        r#"{"peer":"00000000000000ab","index":51}"#,
    ),
    (
        r#"{"level":"warn","ts":"2026-11-21T12:00:00.000Z","msg":"failed to send database snapshot","snapshot-index":51,"remote-peer-id":"ab","bytes":77,"error":"EOF"}"#,
        "etcd.peer_snapshot_failed",
        r#"{"peer":"00000000000000ab","index":51,"size_bytes":77,"cause":"EOF"}"#,
    ),
    (
        r#"{"level":"info","ts":"2026-11-21T12:00:00.000Z","msg":"receiving database snapshot","local-member-id":"1","remote-snapshot-sender-id":"ab","incoming-snapshot-index":51}"#,
        "etcd.peer_snapshot_receiving",
        r#"{"peer":"00000000000000ab","index":51}"#,
    ),
    (
        r#"{"level":"info","ts":"2026-11-21T12:00:00.000Z","msg":"received and saved database snapshot","local-member-id":"1","remote-snapshot-sender-id":"ab","incoming-snapshot-index":51,"incoming-snapshot-size-bytes":9,"download-took":"2ms"}"#,
        "etcd.peer_snapshot_received",
        r#"{"peer":"00000000000000ab","index":51,"size_bytes":9,"took_ns":2000000}"#,
    ),
    (
        r#"{"level":"info","ts":"2026-11-21T12:00:00.000Z","msg":"created a new WAL segment","path":"/x/1.wal"}"#,
        "etcd.wal_segment_created",
        "{}",
    ),
    (
        "2026-11-21 12:28:36.073797 N | wal: repairing /x/member/wal/0000000000000000-0000000000000000.wal",
        "etcd.wal_repaired",
        "{}",
    ),
    (
        "2026-11-21 12:00:00.000000 W | etcdserver: 80% of the file descriptor limit is used [used = 820, limit = 1024]",
        "etcd.file_descriptors_high",
        r#"{"used":820,"limit":1024}"#,
    ),
    (
        r#"{"level":"info","ts":"2026-11-21T12:26:49.000Z","msg":"added member","cluster-id":"d6c13cc6168d8ef9","local-member-id":"b5eff649824935d4","added-peer-id":"a8fb16f67fca8f43","added-peer-peer-urls":["http://127.0.0.1:121010"],"added-peer-is-learner":false}"#,
        "etcd.member_added",
        r#"{"member":"a8fb16f67fca8f43","peer_urls":["http://127.0.0.1:121010"],"learner":false}"#,
    ),
    (
        "2026-11-21 12:26:39.017881 I | etcdserver/membership: added member 60f1cb380f9364d4 [http://127.0.0.1:121000] to cluster 65ab6007cf6ff544",
        "etcd.member_added",
        r#"{"member":"60f1cb380f9364d4"}"#,
    ),
    (
        "2026-11-21 12:00:00.000000 N | etcdserver/membership: removed member ab from cluster c1",
        "etcd.member_removed",
        r#"{"member":"00000000000000ab"}"#,
    ),
    (
        r#"{"level":"info","ts":"2026-11-21T12:00:00.000Z","msg":"promote member","cluster-id":"c1","local-member-id":"1","promoted-member-id":"ab"}"#,
        "etcd.member_promoted",
        r#"{"member":"00000000000000ab"}"#,
    ),
    (
        r#"{"level":"info","ts":"2026-11-21T12:00:00.000Z","msg":"updated member","cluster-id":"c1","updated-remote-peer-id":"ab","updated-remote-peer-urls":["http://10.0.0.1:2380"]}"#,
        "etcd.member_updated",
        r#"{"member":"00000000000000ab","peer_urls":["http://10.0.0.1:2380"]}"#,
    ),
    (
        r#"{"level":"info","ts":"2026-11-21T12:00:00.000Z","msg":"leadership transfer starting","local-member-id":"1","current-leader-member-id":"1","transferee-member-id":"2"}"#,
        "raft.leader_transfer_started",
        r#"{"from":"0000000000000001","to":"0000000000000002"}"#,
    ),
    (
        "2026-11-21 12:00:00.000000 I | etcdserver: 1 finished leadership transfer from 1 to 2 (took 1.5ms)",
        "raft.leader_transfer_finished",
        r#"{"from":"0000000000000001","to":"0000000000000002","took_ns":1500000}"#,
    ),
    (
        "2026-11-21 12:26:35.616299 N | etcdserver/membership: set the initial cluster version to 3.4",
        "etcd.cluster_version",
        r#"{"to":"3.4"}"#,
    ),
    (
        r#"{"level":"info","ts":"2026-11-21T12:00:00.000Z","msg":"updated cluster version","from":"3.4","to":"3.5"}"#,
        "etcd.cluster_version",
        r#"{"from":"3.4","to":"3.5"}"#,
    ),
    (
        r#"{"level":"info","ts":"2026-11-21T12:00:00.000Z","msg":"cluster is downgrading to target version","target-cluster-version":"3.5.0","current-server-version":"3.6.16"}"#,
        "etcd.cluster_downgrading",
        r#"{"to":"3.5.0","version":"3.6.16"}"#,
    ),
    (
        r#"{"level":"warn","ts":"2026-11-21T12:00:00.000Z","msg":"leader found higher-versioned member","local-member-version":"3.5.0","remote-member-id":"ab","remote-member-version":"3.6.0"}"#,
        "etcd.version_skew",
        r#"{"peer":"00000000000000ab","peer_version":"3.6.0"}"#,
    ),
    (
        r#"{"level":"warn","ts":"2026-11-21T12:00:00.000Z","msg":"alarm raised","alarm":"NOSPACE","from":"ab"}"#,
        "etcd.alarm_raised",
        r#"{"alarm":"NOSPACE","member":"00000000000000ab"}"#,
    ),
    (
        "2026-11-21 12:00:00.000000 W | etcdserver: alarm NOSPACE raised by peer ab",
        "etcd.alarm_raised",
        r#"{"alarm":"NOSPACE","member":"00000000000000ab"}"#,
    ),
    (
        r#"{"level":"warn","ts":"2026-11-21T12:00:00.000Z","msg":"alarm disarmed","alarm":"NOSPACE","from":"ab"}"#,
        "etcd.alarm_disarmed",
        r#"{"alarm":"NOSPACE","member":"00000000000000ab"}"#,
    ),
    ("2026-11-21 12:26:35.616266 I | embed: ready to serve client requests", "etcd.ready", "{}"),
    (
        "2026-11-21 12:26:39.022983 N | pkg/osutil: received terminated signal, shutting down...",
        "etcd.stopping",
        r#"{"signal":"terminated"}"#,
    ),
    (
        "2026-11-21 12:00:00.000000 E | etcdserver: the member has been permanently removed from the cluster",
        "etcd.removed_from_cluster",
        "{}",
    ),
    (
        r#"{"level":"warn","ts":"2026-11-21T12:00:00.000Z","msg":"server error","error":"the member has been permanently removed from the cluster"}"#,
        "etcd.server_error",
        r#"{"cause":"the member has been permanently removed from the cluster"}"#,
    ),
    (
        "raft2026/11/21 12:26:35 INFO: raft.node: a759d8e1c4eeb940 elected leader a759d8e1c4eeb940 at term 2",
        "raft.leader_elected",
        r#"{"leader":"a759d8e1c4eeb940","term":2}"#,
    ),
    (
        r#"{"level":"info","ts":"2026-11-21T12:00:00.000Z","logger":"raft","msg":"raft.node: 1 changed leader from 2 to 3 at term 4"}"#,
        "raft.leader_changed",
        r#"{"from":"0000000000000002","leader":"0000000000000003","term":4}"#,
    ),
    (
        r#"{"level":"info","ts":"2026-11-21T12:00:00.000Z","logger":"raft","msg":"raft.node: 1 lost leader 2 at term 4"}"#,
        "raft.leader_lost",
        r#"{"leader":"0000000000000002","term":4}"#,
    ),
    (
        "raft2026/11/21 12:26:35 INFO: a759d8e1c4eeb940 is starting a new election at term 1",
        "raft.campaign",
        r#"{"term":1}"#,
    ),
    (
        r#"{"level":"info","ts":"2026-11-21T12:00:00.000Z","logger":"raft","msg":"b5eff649824935d4 became pre-candidate at term 1"}"#,
        "raft.role",
        r#"{"role":"pre-candidate","term":1}"#,
    ),
    (
        r#"{"level":"info","ts":"2026-11-21T12:00:00.000Z","logger":"raft","msg":"1 no leader at term 3; dropping proposal"}"#,
        "raft.proposal_dropped",
        r#"{"term":3}"#,
    ),
    (
        r#"{"level":"warn","ts":"2026-11-21T12:00:00.000Z","logger":"raft","msg":"1 stepped down to follower since quorum is not active"}"#,
        "raft.quorum_lost",
        "{}",
    ),
];

#[test]
fn every_kind_is_recognized_with_its_details() {
    for (line, kind, details) in LINES {
        let entry = parse(line.as_bytes()).unwrap_or_else(|| panic!("not parsed: {line}"));
        let found = recognize(&entry).unwrap_or_else(|| panic!("not recognized: {line}"));
        let expected: Value = serde_json::from_str(details).unwrap();
        assert_eq!((found.kind, Value::Object(found.details)), (*kind, expected), "{line}");
    }
    let tested: BTreeSet<&str> = LINES.iter().map(|(_, kind, _)| *kind).collect();
    let all: BTreeSet<&str> = kinds().into_iter().collect();
    assert_eq!(tested, all, "every kind has a line here");
}

/// Keys, values and contents of requests are in some of the lines above; all of them hold this word.
#[test]
fn no_key_and_no_value_is_taken_over() {
    for (line, ..) in LINES.iter().filter(|(line, ..)| line.contains("MARKER")) {
        let found = recognize(&parse(line.as_bytes()).unwrap()).unwrap();
        let told = format!("{} {}", found.kind, Value::Object(found.details));
        assert!(!told.contains("MARKER"), "{told}");
    }
    assert!(LINES.iter().filter(|(line, ..)| line.contains("MARKER")).count() >= 6);
}

#[test]
fn ordinary_lines_are_no_events() {
    for line in [
        r#"{"level":"info","ts":"2026-11-21T12:00:00.000Z","msg":"MARKER became leader of nothing"}"#,
        r#"{"level":"info","ts":"2026-11-21T12:00:00.000Z","msg":"trace["}"#,
        r#"{"level":"info","ts":"2026-11-21T12:00:00.000Z","msg":"notifying init daemon"}"#,
        "2026-11-21 12:00:00.000000 I | embed: name = m1",
        "2026-11-21 12:00:00.000000 I | x: request \"took too long (1s) to execute",
    ] {
        let found = parse(line.as_bytes()).and_then(|entry| recognize(&entry));
        assert_eq!(found, None, "{line}");
    }
}

#[test]
fn values_that_do_not_fit_are_left_out() {
    let line =
        r#"{"level":"warn","ts":"x","msg":"slow fdatasync","took":{"a":1},"expected-duration":"MARKER"}"#;
    let found = recognize(&parse(line.as_bytes()).unwrap()).unwrap();
    assert!(found.details.is_empty(), "{found:?}");
    assert_eq!(capture("a {} b {}", "a 1 b 2 c"), Some(vec!["1", "2 c"]));
    assert_eq!(capture("{} b", "1 b c"), None);
    assert_eq!(id("é"), None);
    assert_eq!(id("12345678901234567"), None);
}
