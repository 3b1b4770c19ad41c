//! The table against last lines of real etcds, versions named.

use super::super::boot::Boot;
use super::super::line::parse;
use super::*;

/// (cause, exit code, lines). The process has ended.
const ENDED: &[(&str, i32, &[&str])] = &[
    ("wal_crc_mismatch", 1, &["2026-11-21 12:28:35.414926 C | etcdmain: walpb: crc mismatch"]),
    (
        "wal_crc_mismatch",
        1,
        &[
            r#"{"level":"fatal","ts":"2026-11-21T12:28:35.414Z","msg":"discovery failed","error":"walpb: crc mismatch: expected: e7c6f28d computed: 5e992475: in file '0000000000000000-0000000000000000.wal' at position: 4816","stacktrace":"a\nb"}"#,
        ],
    ),
    ("wal_corrupt", 2, &["panic: cannot use none as id", "goroutine 1 [running]:"]),
    (
        "db_corrupt",
        2,
        &[
            r#"{"level":"panic","ts":"2026-11-21T12:28:35.414Z","msg":"failed to open database","path":"/d/member/snap/db","error":"file size too small 5000"}"#,
            "panic: failed to open database",
        ],
    ),
    ("db_corrupt", 2, &["panic: freepages: failed to get all reachable pages (page -1: out of bounds: 6)"]),
    (
        "db_corrupt",
        2,
        &["panic: assertion failed: Page expected to be: 3, but self identifies as 18446744073709551615"],
    ),
    (
        "db_corrupt",
        2,
        &[
            "2026-11-21 12:28:44.991335 C | mvcc/backend: cannot open database at /d/member/snap/db (invalid database)",
        ],
    ),
    (
        "snapshot_missing",
        2,
        &[
            "2026-11-21 12:28:46.606266 C | etcdserver: recovering backend from snapshot error: failed to find database snapshot file (snap: snapshot file doesn't exist)",
        ],
    ),
    (
        "disk_full",
        2,
        &[
            r#"{"level":"warn","ts":"2026-11-21T12:29:14.000Z","msg":"failed to preallocate an initial WAL file","path":"/d/member/wal.tmp/0.wal","segment-bytes":64000000,"error":"no space left on device"}"#,
            r#"{"level":"panic","ts":"2026-11-21T12:29:14.000Z","msg":"failed to create WAL","error":"no space left on device"}"#,
        ],
    ),
    (
        "port_taken",
        1,
        &[
            "2026-11-21 12:28:56.263001 C | etcdmain: listen tcp 127.0.0.1:21101: bind: address already in use",
        ],
    ),
    (
        "data_dir_rights",
        1,
        &[
            r#"{"level":"fatal","ts":"2026-11-21T12:29:14.000Z","msg":"failed to list data directory","dir":"/d","error":"open /d: permission denied"}"#,
        ],
    ),
    ("data_dir_rights", 1, &["2026-11-21 12:28:51.725061 C | etcdmain: error listing data dir: /d"]),
    (
        "certificate_key_mismatch",
        1,
        &["2026-11-21 12:45:29.008312 C | etcdmain: tls: private key does not match public key"],
    ),
    (
        "certificate_unreadable",
        1,
        &["2026-11-21 12:45:09.026890 C | etcdmain: open tls/old.crt: no such file or directory"],
    ),
    ("flags", 2, &["flag provided but not defined: -no-such-flag", "Usage:"]),
    (
        "flags",
        2,
        &[
            "invalid value \"127.0.0.1:21100\" for flag -listen-client-urls: parse \"127.0.0.1:21100\": first path segment in URL cannot contain colon",
        ],
    ),
    (
        "flags",
        1,
        &[
            r#"{"level":"warn","ts":"2026-11-21T12:29:14.000Z","msg":"failed to verify flags","error":"open /none.yaml: no such file or directory"}"#,
        ],
    ),
    (
        "initial_cluster",
        1,
        &[
            r#"{"level":"fatal","ts":"2026-11-21T12:29:14.000Z","msg":"discovery failed","error":"couldn't find local name \"m1\" in the initial cluster configuration"}"#,
        ],
    ),
    (
        "initial_cluster",
        1,
        &[
            "2026-11-21 12:28:51.130740 C | etcdmain: --initial-cluster has m1=http://127.0.0.1:21109 but missing from --initial-advertise-peer-urls=http://127.0.0.1:21101",
        ],
    ),
    (
        "cluster_unreachable",
        1,
        &[
            "2026-11-21 12:29:38.209907 C | etcdmain: cannot fetch cluster info from peer urls: could not retrieve cluster information from the given URLs",
        ],
    ),
    (
        "already_bootstrapped",
        1,
        &["2026-11-21 12:47:13.850627 C | etcdmain: member a21d2a235ad60d9e has already been bootstrapped"],
    ),
    (
        "member_removed",
        0,
        &[
            r#"{"level":"warn","ts":"2026-11-21T12:47:56.081Z","msg":"server error","error":"the member has been permanently removed from the cluster"}"#,
            r#"{"level":"warn","ts":"2026-11-21T12:47:56.081Z","msg":"data-dir used by this member must be removed"}"#,
        ],
    ),
    (
        "raft_log_lost",
        2,
        &[
            "raft2026/11/21 12:47:13 PANIC: tocommit(9) is out of range [lastIndex(0)]. Was the raft log corrupted, truncated, or lost?",
            "panic: tocommit(9) is out of range [lastIndex(0)]. Was the raft log corrupted, truncated, or lost?",
        ],
    ),
    (
        "newer_data",
        1,
        &[
            "2026-11-21 12:50:25.144217 C | etcdserver/membership: cluster cannot be downgraded (current version: 3.4.23 is lower than determined cluster version: 3.5).",
        ],
    ),
    (
        "newer_data",
        1,
        &[
            r#"{"level":"fatal","ts":"2026-11-21T12:47:56.081Z","msg":"invalid downgrade; server version is lower than determined cluster version","current-server-version":"3.5.35","determined-cluster-version":"3.6"}"#,
        ],
    ),
    (
        "newer_data",
        1,
        &[
            r#"{"level":"error","ts":"2026-11-21T12:47:56.081Z","msg":"Failed to validate schema","error":"version \"3.7.0\" is not supported"}"#,
        ],
    ),
    ("older_data", 2, &["panic: removed all voters"]),
    (
        "older_data",
        2,
        &[
            r#"{"level":"panic","ts":"2026-11-21T12:47:56.081Z","msg":"v2 http proxy has already been deprecated in 3.6","dir-type":"proxy"}"#,
        ],
    ),
    ("panic", 2, &["panic: something new", "main.main()"]),
    (
        "unknown",
        1,
        &[
            r#"{"level":"fatal","ts":"2026-11-21T12:47:56.081Z","msg":"discovery failed","error":"something new"}"#,
        ],
    ),
    ("unknown", 3, &[]),
];

/// (cause, lines). The process runs and does not serve.
const WAITING: &[(&str, &[&str])] = &[
    (
        "lock_held",
        &[
            "2026-11-21 12:29:11.070215 W | etcdserver: another etcd process is using \"/d/member/snap/db\" and holds the file lock, or loading backend file is taking >10 seconds",
        ],
    ),
    (
        "cluster_id_mismatch",
        &[
            r#"{"level":"warn","ts":"2026-11-21T12:47:56.081Z","msg":"request sent was ignored by remote peer due to cluster ID mismatch","remote-peer-id":"826c9a39cd3fc68e","remote-peer-cluster-id":"9bb3bdff51e4db77","local-member-id":"49638c19b8c7151a","local-member-cluster-id":"70421633f8193ecd","error":"cluster ID mismatch"}"#,
        ],
    ),
    (
        "certificate_unknown_authority",
        &[
            "2026-11-21 12:45:24.132550 W | rafthttp: health check for peer fa09c359e4af35e7 could not connect: x509: certificate signed by unknown authority",
        ],
    ),
    (
        "certificate_expired",
        &[
            r#"{"level":"warn","ts":"2026-11-21T12:47:56.081Z","msg":"prober detected unhealthy status","remote-peer-id":"ab","error":"tls: failed to verify certificate: x509: certificate has expired or is not yet valid: current time 2026-11-21T12:47:56Z is after 2021-01-01T00:00:00Z"}"#,
        ],
    ),
];

fn lines(raw: &[&str]) -> Vec<BootLine> {
    let mut boot = Boot::new(0);
    for line in raw {
        match parse(line.as_bytes()) {
            Some(entry) => boot.entry(&entry),
            None => boot.raw(line.as_bytes()),
        }
    }
    boot.lines().to_vec()
}

fn facts<'a>(lines: &'a [BootLine], exit: Option<Exit>, findings: &'a [Finding]) -> Facts<'a> {
    Facts { lines, exit, ended: exit.is_some(), stopping: false, findings }
}

#[test]
fn every_cause_is_told_from_the_last_lines() {
    for (cause, code, raw) in ENDED {
        let lines = lines(raw);
        let verdict =
            judge(&facts(&lines, Some(Exit::Code(*code)), &[])).unwrap_or_else(|| panic!("{cause}: {raw:?}"));
        assert_eq!(verdict.cause, *cause, "{raw:?}: {verdict:?}");
        assert!(!verdict.detail.is_empty() && !verdict.next_step.is_empty(), "{verdict:?}");
        assert_eq!(verdict.evidence.is_empty(), raw.is_empty(), "{verdict:?}");
    }
    for (cause, raw) in WAITING {
        let lines = lines(raw);
        let verdict = judge(&facts(&lines, None, &[])).unwrap_or_else(|| panic!("{cause}: {raw:?}"));
        assert_eq!(verdict.cause, *cause, "{raw:?}");
    }
}

#[test]
fn what_ends_an_etcd_is_not_told_while_it_runs() {
    let lines = lines(&["2026-11-21 12:28:35.414926 E | x: open /d: permission denied"]);
    assert_eq!(judge(&facts(&lines, None, &[])), None);
}

#[test]
fn an_end_that_was_asked_for_or_orderly_is_no_failure() {
    assert_eq!(judge(&facts(&[], Some(Exit::Code(0)), &[])), None);
    assert_eq!(judge(&facts(&[], Some(Exit::Signal(libc::SIGTERM)), &[])), None);
    let stopping = Facts { stopping: true, ..facts(&[], Some(Exit::Code(1)), &[]) };
    assert_eq!(judge(&stopping), None);
    let killed = judge(&facts(&[], Some(Exit::Signal(libc::SIGKILL)), &[])).unwrap();
    assert!(killed.cause == "killed" && killed.detail.contains("memory"), "{killed:?}");
    let nobody_saw = Facts { ended: true, ..facts(&[], None, &[]) };
    assert_eq!(judge(&nobody_saw), None);
}

#[test]
fn without_a_log_what_is_seen_from_outside_counts() {
    let findings = [Finding { cause: "port_taken", evidence: "by pid 7 (nc)".to_owned(), waits: false }];
    let verdict = judge(&facts(&[], Some(Exit::Code(1)), &findings)).unwrap();
    assert_eq!((verdict.cause, verdict.evidence.as_str()), ("port_taken", "by pid 7 (nc)"));
    assert_eq!(judge(&facts(&[], None, &findings)), None, "while it runs that is no reason");
    let lines = lines(&[
        "2026-11-21 12:28:56.263001 C | etcdmain: listen tcp 127.0.0.1:1: bind: address already in use",
    ]);
    let both = judge(&facts(&lines, Some(Exit::Code(1)), &findings)).unwrap();
    assert!(both.detail.contains("by pid 7 (nc)") && both.evidence.contains("bind"), "{both:?}");
}

#[test]
fn evidence_is_one_short_line_without_secrets() {
    let text = format!(
        "etcd of http://user:hush@10.0.0.1:2379/x and key:\"hush\" failed\nagain {}",
        "x".repeat(999)
    );
    let told = redact(&text);
    assert!(
        !told.contains("hush") && !told.contains('\n') && told.chars().count() <= EVIDENCE_LIMIT,
        "{told}"
    );
    assert!(told.starts_with("etcd of http://***@10.0.0.1:2379/x and key:\"***\" failed again"), "{told}");
}
