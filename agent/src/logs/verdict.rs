//! Why an etcd did not start, or ended: its last lines, its exit and what is seen from outside become a cause with its
//! evidence and what to do next. Pure and a table; every row was seen on real etcds (`agent/tests/agent/boot.rs`).

use super::boot::BootLine;
use super::line::Level;
use super::outside::Finding;

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By a signal.
    Signal(i32),
}

impl Exit {
    /// From a wait status.
    pub const fn of_status(status: i32) -> Self {
        if libc::WIFSIGNALED(status) {
            Self::Signal(libc::WTERMSIG(status))
        } else {
            Self::Code(libc::WEXITSTATUS(status))
        }
    }

    /// In words.
    pub fn describe(self) -> String {
        match self {
            Self::Code(code) => format!("code {code}"),
            Self::Signal(signal) => format!("signal {signal}"),
        }
    }
}

/// All that is known.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// What may tell why, oldest first.
    pub lines: &'a [BootLine],
    /// `None` while it runs, or when nobody saw how it ended.
    pub exit: Option<Exit>,
    /// It has ended.
    pub ended: bool,
    /// It was told to end.
    pub stopping: bool,
    /// What can be seen without a log, the most telling first.
    pub findings: &'a [Finding],
}

/// The verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Stable name, such as `wal_crc_mismatch`.
    pub cause: &'static str,
    /// In a sentence.
    pub detail: String,
    /// The line that says so, or what was seen; without secrets.
    pub evidence: String,
    /// What a person should do.
    pub next_step: &'static str,
}

struct Rule {
    cause: &'static str,
    /// One of these; of each all parts must be in the line.
    signs: &'static [&'static [&'static str]],
    detail: &'static str,
    next_step: &'static str,
    /// It keeps a process from serving without ending it.
    waits: bool,
}

/// Longest evidence.
const EVIDENCE_LIMIT: usize = 300;

const fn fatal(
    cause: &'static str,
    signs: &'static [&'static [&'static str]],
    detail: &'static str,
    next_step: &'static str,
) -> Rule {
    Rule { cause, signs, detail, next_step, waits: false }
}

const fn waiting(
    cause: &'static str,
    signs: &'static [&'static [&'static str]],
    detail: &'static str,
    next_step: &'static str,
) -> Rule {
    Rule { cause, signs, detail, next_step, waits: true }
}

/// In order: what comes first explains what comes later.
const RULES: &[Rule] = &[
    fatal(
        "disk_full",
        &[&["no space left on device"], &["disk quota exceeded"]],
        "there is no space left on the disk of the data directory",
        "free space on that filesystem or enlarge it; do not delete files of the data directory",
    ),
    fatal(
        "disk_read_only",
        &[&["read-only file system"]],
        "the filesystem of the data directory is read-only",
        "look for disk errors in the kernel log; repair and mount it writable",
    ),
    fatal(
        "disk_error",
        &[&["input/output error"]],
        "the disk of the data directory fails",
        "replace the disk and re-create the member from its peers",
    ),
    fatal(
        "port_taken",
        &[&["address already in use"]],
        "another process listens on an address that etcd is to listen on",
        "end the other process (ss -ltnp shows it) or change the listen URLs",
    ),
    fatal(
        "address_missing",
        &[&["cannot assign requested address"]],
        "the node does not have an address that etcd is to listen on",
        "correct --listen-peer-urls and --listen-client-urls",
    ),
    fatal(
        "certificate_key_mismatch",
        &[&["private key does not match public key"], &["private key type does not match"]],
        "a private key does not belong to its certificate",
        "install certificate and key of one pair",
    ),
    waiting(
        "certificate_expired",
        &[&["certificate has expired or is not yet valid"]],
        "a certificate is expired or not yet valid",
        "renew the certificate (kubeadm certs renew) and check the node's clock; etcd reads it again by itself",
    ),
    waiting(
        "certificate_unknown_authority",
        &[&["certificate signed by unknown authority"], &["unknown certificate authority"]],
        "a certificate was not signed by the authority that the other side trusts",
        "issue the certificate by the cluster's authority, or give all members the same --peer-trusted-ca-file",
    ),
    fatal(
        "certificate_unreadable",
        &[
            &["failed to find any pem data"],
            &["open ", ".crt: no such file"],
            &["open ", ".pem: no such file"],
            &["open ", ".key: no such file"],
            &["open ", ".crt: permission denied"],
            &["open ", ".pem: permission denied"],
            &["open ", ".key: permission denied"],
            &["keyfile and certfile must both be present"],
            &["failed creating a self-signed cert"],
        ],
        "a file of certificate or key is missing or can't be read",
        "correct the path and the rights of the files that the flags name",
    ),
    fatal(
        "data_dir_rights",
        &[
            &["permission denied"],
            &["operation not permitted"],
            &["error listing data dir"],
            &["cannot access data directory"],
        ],
        "etcd's user may not read or write the data directory",
        "give data directory and all below it to etcd's user (chown -R), mode 0700",
    ),
    fatal(
        "wal_crc_mismatch",
        &[&["walpb: crc mismatch"], &["wal", "crc mismatch"]],
        "a record of the write-ahead log is corrupt",
        "do not delete the WAL of a member alone: remove the member, clear its data directory, add it again; check the disk",
    ),
    fatal(
        "snapshot_missing",
        &[
            &["failed to find database snapshot file"],
            &["snap: snapshot file doesn't exist"],
            &["failed to recover v3 backend from snapshot"],
            &["recovering backend from snapshot error"],
        ],
        "the backend file that the raft snapshot belongs to is missing",
        "remove the member, clear its data directory, add it again; restore from a backup if it was the only one",
    ),
    fatal(
        "db_corrupt",
        &[
            &["failed to open database"],
            &["cannot open database at"],
            &["failed to get all reachable pages"],
            &["assertion failed: page"],
            &["invalid freelist page"],
            &["invalid page type"],
            &["page ", "already freed"],
            &["unexpected page"],
            &["file size too small"],
        ],
        "the backend file (bbolt) is corrupt",
        "remove the member, clear its data directory, add it again; restore from a backup if it was the only one; check the disk",
    ),
    fatal(
        "wal_corrupt",
        &[
            &["cannot use none as id"],
            &["wal: file not found"],
            &["wal: slice bounds out of range"],
            &["wal: max entry size limit exceeded"],
            &["wal: snapshot not found"],
            &["wal: snapshot mismatch"],
            &["wal: conflicting metadata"],
            &["failed to read wal"],
            &["failed to open wal"],
            &["wal", "unexpected eof"],
        ],
        "segments of the write-ahead log are missing, empty or cut",
        "remove the member, clear its data directory, add it again; check the disk",
    ),
    fatal(
        "raft_log_lost",
        &[&["tocommit(", "is out of range"]],
        "the member has lost entries of its raft log that it had confirmed: its data was deleted or its disk lied about a sync",
        "remove the member from the cluster, clear its data directory, add it again; check the disk's write cache",
    ),
    fatal(
        "newer_data",
        &[
            &["invalid downgrade; server version is lower"],
            &["cluster cannot be downgraded"],
            &["failed to validate schema"],
            &["is lower than determined cluster version"],
            &["version ", " is not supported"],
        ],
        "the data was written by a newer version of etcd than this one",
        "start the version that wrote the data; etcd goes back one minor version by `etcdctl downgrade` only",
    ),
    fatal(
        "older_data",
        &[
            &["removed all voters"],
            &["unmarshal should never fail"],
            &["detected disallowed custom content in v2store"],
            &["detected disallowed v2 content"],
            &["v2 http proxy has already been deprecated"],
            &["discovery v2", "not supported"],
        ],
        "the data was written by a version of etcd that is too old for this one",
        "start the version that wrote the data and upgrade one minor version at a time",
    ),
    fatal(
        "member_removed",
        &[
            &["the member has been permanently removed from the cluster"],
            &["data-dir used by this member must be removed"],
            &["local member has been removed"],
        ],
        "the member was removed from the cluster",
        "add it anew (etcdctl member add), clear its data directory, start it with --initial-cluster-state=existing",
    ),
    fatal(
        "already_bootstrapped",
        &[&["has already been bootstrapped"]],
        "the cluster knows this member as running, but its data directory is empty",
        "remove the member, add it again, start it with --initial-cluster-state=existing; or bring its data back",
    ),
    fatal(
        "initial_cluster",
        &[
            &["couldn't find local name"],
            &["--initial-cluster has"],
            &["missing from --initial-advertise-peer-urls"],
            &["error validating peerurls"],
            &["error validating initial cluster"],
            &["member count is unequal"],
            &["unmatched member while checking peerurls"],
            &["has different advertised urls"],
        ],
        "--initial-cluster, --name and the advertised peer URLs do not fit each other or the cluster",
        "make --initial-cluster the output of `etcdctl member add`, with this member's own name and peer URLs",
    ),
    fatal(
        "cluster_unreachable",
        &[&["cannot fetch cluster info from peer urls"]],
        "the member is to join an existing cluster, and none of its peers answers",
        "check that the peers run and that their peer URLs are reached from this node",
    ),
    waiting(
        "cluster_id_mismatch",
        &[&["cluster id mismatch"], &["conflicting cluster id"]],
        "the member's data belongs to another cluster than its peers'",
        "clear its data directory if it was restored or cloned, and join it with the cluster's own token and member list",
    ),
    waiting(
        "lock_held",
        &[&["another etcd process is using"], &["holds the file lock"]],
        "another process holds the lock of the data directory",
        "end the other etcd; two must never share a data directory",
    ),
    fatal(
        "flags",
        &[
            &["flag provided but not defined"],
            &["invalid value ", " for flag"],
            &["failed to verify flags"],
            &["error verifying flags"],
            &["is required when"],
            &["error setting up initial cluster"],
            &["conflicting environment variable"],
            &["is not a valid command line flag"],
            &["error parsing"],
        ],
        "etcd does not accept its flags, environment or configuration file",
        "correct what the evidence names; flags that another version knew may be gone",
    ),
];

/// Why it does not serve. `None` when nothing is wrong, it was told to end, or nothing is known.
pub fn judge(facts: &Facts) -> Option<Verdict> {
    if let Some(verdict) = by_line(facts) {
        return Some(verdict);
    }
    if let Some(finding) = facts.findings.iter().find(|finding| facts.ended || finding.waits) {
        return Some(by_finding(finding));
    }
    if !facts.ended || facts.stopping {
        return None;
    }
    by_exit(facts)
}

fn by_line(facts: &Facts) -> Option<Verdict> {
    let rules = RULES.iter().filter(|rule| facts.ended || rule.waits);
    for rule in rules {
        // The last one: what etcd says last is nearest to its end.
        let found = facts.lines.iter().rev().find(|line| fits(rule, &line.text));
        if let Some(line) = found {
            let finding = facts.findings.iter().find(|finding| finding.cause == rule.cause);
            let detail = match finding {
                Some(finding) => format!("{}: {}", rule.detail, finding.evidence),
                None => rule.detail.to_owned(),
            };
            let next_step = rule.next_step;
            return Some(Verdict { cause: rule.cause, detail, evidence: redact(&line.text), next_step });
        }
    }
    None
}

fn fits(rule: &Rule, text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    rule.signs.iter().any(|parts| parts.iter().all(|part| text.contains(part)))
}

fn by_finding(finding: &Finding) -> Verdict {
    let rule = RULES.iter().find(|rule| rule.cause == finding.cause);
    let (detail, next_step) = rule.map_or(("", ""), |rule| (rule.detail, rule.next_step));
    Verdict { cause: finding.cause, detail: detail.to_owned(), evidence: finding.evidence.clone(), next_step }
}

/// Nothing is known but how it ended.
fn by_exit(facts: &Facts) -> Option<Verdict> {
    let panic = facts.lines.iter().find(|line| line.level.is_none() && line.text.starts_with("panic: "));
    let last = facts.lines.iter().rev().find(|line| line.level.is_none_or(|level| level >= Level::Error));
    let verdict = |cause, detail: String, evidence: Option<&BootLine>, next_step| Verdict {
        cause,
        detail,
        evidence: evidence.map(|line| redact(&line.text)).unwrap_or_default(),
        next_step,
    };
    if let Some(panic) = panic {
        let next_step = "look the message up in etcd's issues with this version; keep the data directory";
        return Some(verdict("panic", "etcd panicked".to_owned(), Some(panic), next_step));
    }
    match facts.exit {
        Some(Exit::Code(0)) => None,
        Some(Exit::Signal(libc::SIGTERM | libc::SIGINT)) => None,
        Some(Exit::Signal(libc::SIGKILL)) => Some(verdict(
            "killed",
            "etcd was killed: by somebody, or by the kernel for want of memory".to_owned(),
            last,
            "look for `Out of memory` in the kernel log and at the memory limit of its cgroup",
        )),
        Some(Exit::Signal(signal)) => Some(verdict(
            "killed",
            format!("etcd was ended by signal {signal}"),
            last,
            "SIGBUS and SIGSEGV point to a broken disk or memory: look at the kernel log",
        )),
        Some(Exit::Code(code)) => {
            let step = "read the evidence and etcd's log";
            Some(verdict("unknown", format!("etcd ended with code {code}"), last, step))
        }
        None => last.map(|line| {
            let step = "read the evidence and etcd's log";
            verdict("unknown", "etcd ended, nobody saw how".to_owned(), Some(line), step)
        }),
    }
}

/// Evidence fit to leave the node: one line, no keys of requests, no credentials in URLs.
fn redact(text: &str) -> String {
    let mut kept = String::new();
    for (number, part) in text.split("://").enumerate() {
        if number > 0 {
            kept.push_str("://");
        }
        let end = part.find(['/', ' ', '"', ',', '\'']).unwrap_or(part.len());
        match part[..end].rfind('@').filter(|_| number > 0) {
            Some(at) => kept.push_str(&format!("***{}", &part[at..])),
            None => kept.push_str(part),
        }
    }
    let mut told = String::new();
    let mut rest = kept.as_str();
    while let Some(at) = rest.find("key:\"") {
        told.push_str(&rest[..at + 5]);
        told.push_str("***\"");
        rest = rest[at + 5..].split_once('"').map_or("", |(_, after)| after);
    }
    told.push_str(rest);
    told.chars().map(|c| if c.is_control() { ' ' } else { c }).take(EVIDENCE_LIMIT).collect()
}

#[cfg(test)]
mod tests;
