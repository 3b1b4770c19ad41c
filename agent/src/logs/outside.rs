//! What can be told of an etcd that does not serve without its log: ports, certificates, rights, space, the lock, the WAL.
//!
//! Reads only, and only when a process has just failed or has been waiting for a while.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use etcdmon_service::foreign::{self, CERTIFICATE_BYTES};
use x509_parser::prelude::{FromDer as _, Pem, X509Certificate};

use super::wal;
use crate::clock::SECOND_NS;
use crate::discover::{EtcdProcess, ProcFs, TlsFiles};

/// Processes looked at to find the one that listens on a port.
const PROCESSES_LIMIT: usize = 20_000;

/// etcd needs this much to create its first WAL segment.
const SEGMENT_BYTES: u64 = 64_000_000;

/// Something that keeps etcd from serving.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Cause of a verdict.
    pub cause: &'static str,
    /// What was seen.
    pub evidence: String,
    /// It keeps a process from serving without ending it.
    pub waits: bool,
}

fn finding(cause: &'static str, evidence: String) -> Finding {
    Finding { cause, evidence, waits: matches!(cause, "certificate_expired" | "lock_held") }
}

/// All findings about a process with user id `uid`, the most telling first. `ended`: it is gone, so that listeners are
/// others and its files are at rest.
pub fn look(proc: &ProcFs, process: &EtcdProcess, uid: u32, ended: bool, now_ns: i64) -> Vec<Finding> {
    let mut found = Vec::new();
    if ended && process.shares_network {
        let urls = process.listen_client_urls.iter().chain(&process.listen_peer_urls);
        found.extend(urls.chain(&process.listen_metrics_urls).find_map(|url| port(proc, process, url)));
    }
    // The files of a container are gone with it.
    if ended && process.data_dir_here != process.data_dir {
        return found;
    }
    found.extend(certificates(&process.client_tls, now_ns));
    found.extend(certificates(&process.peer_tls, now_ns));
    found.extend(lock(proc, process));
    if !ended {
        return found;
    }
    found.extend(rights(process, uid));
    found.extend(space(process));
    if found.is_empty() {
        found.extend(wal::check(&process.wal_dir_here).map(|(cause, evidence)| finding(cause, evidence)));
    }
    found
}

fn certificates(files: &TlsFiles, now_ns: i64) -> Option<Finding> {
    let path = files.cert.as_ref()?;
    let read = foreign::read(path, CERTIFICATE_BYTES).map_err(std::io::Error::from);
    let text = match read {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Some(finding("certificate_unreadable", format!("{}: {error}", path.display())));
        }
        // That this process may not read it says nothing about etcd.
        Err(_) => return None,
    };
    for pem in Pem::iter_from_buffer(&text).flatten() {
        let Ok((_, certificate)) = X509Certificate::from_der(&pem.contents) else { continue };
        let validity = certificate.validity();
        let now = now_ns / SECOND_NS;
        let (from, to) = (validity.not_before.timestamp(), validity.not_after.timestamp());
        if now < from || now > to {
            let what = if now > to { "expired on" } else { "is not valid before" };
            let when = if now > to { validity.not_after } else { validity.not_before };
            return Some(finding("certificate_expired", format!("{} {what} {when}", path.display())));
        }
    }
    let key = files.key.as_ref()?;
    match keys_match(&text, key) {
        Ok(true) => None,
        Ok(false) => {
            let evidence = format!("{} does not belong to {}", key.display(), path.display());
            Some(finding("certificate_key_mismatch", evidence))
        }
        Err(_) => None,
    }
}

fn keys_match(certificate: &[u8], key: &Path) -> Result<bool, String> {
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(certificate)
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())?;
    let key = foreign::read(key, CERTIFICATE_BYTES).map_err(|error| error.to_string())?;
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|error| error.to_string())?;
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).map_err(|error| error.to_string())?;
    // Inconsistent is what is looked for; not to be able to tell is no fault of etcd's.
    let matched = rustls::sign::CertifiedKey::new(chain, key).keys_match();
    Ok(!matches!(matched, Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::KeyMismatch))))
}

/// Who holds bbolt's lock, when it is not the process itself.
fn lock(proc: &ProcFs, process: &EtcdProcess) -> Option<Finding> {
    let db = process.data_dir_here.join("member/snap/db");
    let inode = fs::metadata(&db).ok()?.ino();
    let locks = proc.read_root("locks").ok()?;
    let holder = locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [_, "FLOCK" | "POSIX" | "OFDLCK", _, _, pid, file, ..] = words.as_slice() else { return None };
        let pid: u32 = pid.parse().ok()?;
        (file.rsplit(':').next()?.parse() == Ok(inode) && pid != process.id.pid).then_some(pid)
    })?;
    let name = proc.stat(holder).map_or_else(|| "?".to_owned(), |stat| stat.comm);
    // The lock of a process that is ending goes with it.
    (name != "?")
        .then(|| finding("lock_held", format!("{} is locked by pid {holder} ({name})", db.display())))
}

/// Another process that listens where this one is to.
fn port(proc: &ProcFs, process: &EtcdProcess, url: &str) -> Option<Finding> {
    let port: u16 = url.rsplit(':').next()?.trim_end_matches('/').parse().ok()?;
    let inode =
        ["net/tcp", "net/tcp6"].iter().find_map(|table| listener(&proc.read_root(table).ok()?, port))?;
    let mut pids = Vec::new();
    proc.pids(&mut pids).ok()?;
    let owner = pids.into_iter().take(PROCESSES_LIMIT).find(|pid| has_socket(proc, *pid, inode));
    if owner == Some(process.id.pid) {
        return None;
    }
    let who = match owner {
        Some(pid) => {
            let name = proc.stat(pid).map_or_else(|| "?".to_owned(), |stat| stat.comm);
            format!("pid {pid} ({name})")
        }
        None => "a process that can't be seen from here".to_owned(),
    };
    Some(finding("port_taken", format!("port {port} of {url} is taken by {who}")))
}

/// Inode of the socket that listens on a port, from `/proc/net/tcp`.
fn listener(table: &str, port: u16) -> Option<u64> {
    table.lines().skip(1).find_map(|line| {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let listens = *words.get(3)? == "0A";
        let found = u16::from_str_radix(words.get(1)?.rsplit(':').next()?, 16).ok()?;
        (listens && found == port).then(|| words.get(9)?.parse().ok())?
    })
}

fn has_socket(proc: &ProcFs, pid: u32, inode: u64) -> bool {
    let wanted = PathBuf::from(format!("socket:[{inode}]"));
    let entries = fs::read_dir(proc.path(pid, "fd")).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).any(|path| fs::read_link(path).is_ok_and(|target| target == wanted))
}

/// The first of etcd's own files and directories that its user may not write.
fn rights(process: &EtcdProcess, uid: u32) -> Option<Finding> {
    if uid == 0 {
        return None;
    }
    let here = &process.data_dir_here;
    let below = [here.clone(), here.join("member"), here.join("member/snap"), here.join("member/snap/db")];
    let wal = std::iter::once(process.wal_dir_here.clone());
    below.into_iter().chain(wal).find_map(|path| {
        let metadata = fs::metadata(&path).ok()?;
        let needed = if metadata.is_dir() { 0o3 } else { 0o6 };
        let own = metadata.uid() == uid && (metadata.mode() >> 6) & needed == needed;
        // Groups are not known here: that a group may write is taken for enough.
        let others = metadata.mode() & needed == needed || (metadata.mode() >> 3) & needed == needed;
        (!own && !others).then(|| {
            let (path, owner, mode) = (path.display(), metadata.uid(), metadata.mode() & 0o7777);
            finding(
                "data_dir_rights",
                format!("{path} belongs to user {owner}, mode {mode:o}; etcd runs as user {uid}"),
            )
        })
    })
}

fn space(process: &EtcdProcess) -> Option<Finding> {
    let mut path: &Path = &process.wal_dir_here;
    while !path.exists() {
        path = path.parent()?;
    }
    let (available, inodes) = statvfs(path)?;
    // An etcd that has its segments needs little; a new one preallocates the first.
    let needed = if process.wal_dir_here.exists() { 1 << 20 } else { SEGMENT_BYTES };
    let missing = available < needed || inodes == 0;
    missing.then(|| {
        finding(
            "disk_full",
            format!("{available} bytes and {inodes} inodes are left on the filesystem of {}", path.display()),
        )
    })
}

/// Bytes and inodes available to others than root.
fn statvfs(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::ffi::OsStrExt as _;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).ok()?;
    // SAFETY: all zeros is a valid statvfs.
    let mut space: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: the path is a C string and `space` is valid, both for the duration of the call.
    let outcome = unsafe { libc::statvfs(path.as_ptr(), &raw mut space) };
    // Filesystems without inodes of their own report none at all.
    let inodes = if space.f_files == 0 { u64::MAX } else { space.f_favail };
    (outcome == 0).then(|| (space.f_bavail.saturating_mul(space.f_frsize), inodes))
}

#[cfg(test)]
mod tests;
