//! What has to do with disks.

use super::split::Split;
use super::words::{bytes, percent, span};
use super::{finding, is_among};
use crate::diagnosis::facts::{Cpu, Facts};
use crate::diagnosis::{Cause, Confidence, Culprit, Finding, share};

const MIB: f64 = 1_048_576.0;

/// Disks must have this part in slow syncs before anybody on them is blamed.
const DISK_LEAST: f64 = 0.4;

/// Neighbours are to blame from this part of the wait on. One thread that writes 4 KiB and syncs beside etcd has about half;
/// what an idle system's own daemons write stays below a tenth.
const NEIGHBOUR_LEAST: f64 = 0.25;

/// A neighbour who brought less than this a second to the disk is small, whatever its share: on a device that takes long
/// for each request, a single small one is under way all the time.
const NEIGHBOUR_RATE: f64 = MIB;

/// From this share on even somebody of whom little is known is named, with low confidence ...
const VAGUE_LEAST: f64 = 0.4;

/// ... if so much a second was written.
const VAGUE_RATE: f64 = 4.0 * MIB;

/// The journal's part in slow syncs that calls for a look at who changes metadata.
const JOURNAL_LEAST: f64 = 0.4;

/// Of the metadata that was changed, the part of one who is blamed for it.
const JOURNAL_USER_LEAST: f64 = 0.3;

/// Beside a neighbour who writes data, somebody else must stand out in the journal.
const JOURNAL_BESIDE: f64 = 0.5;

/// Metadata changed per byte of data, beyond which a process is taken for one that changes metadata, if the journal has half of the
/// time: its data are then the blocks that it must write back itself to make room in a small log. One who overwrites changes next to
/// no metadata.
const METADATA_RATIO: u64 = 4;

/// The device is slow when the average slow sync had it working for so long (etcd's recommendation is 10 ms in all) ...
const SERVICE_LEAST_NS: f64 = 8e6;

/// ... and for so many times what the member's whole syncs usually take ...
const SERVICE_TIMES: f64 = 4.0;

/// ... and this part of all WAL syncs is slow: a slow device spares nobody, a hiccup or an overfull queue does.
const SLOW_DEVICE_LEAST: f64 = 0.3;

/// Others' part of the wait that a slow device's verdict tolerates.
const NOBODY: f64 = 0.2;

/// Beside a neighbour the device is a cause of its own only if so little is written ...
const BESIDE_RATE: f64 = 4.0 * MIB;

/// ... and the device works for so long on the average slow sync.
const BESIDE_SERVICE_NS: f64 = 2e7;

/// When even the quickest tenth takes this long, it is not the luck of the scheduler.
const ALL_SLOW_NS: u64 = 10_000_000;

/// The part of an IO limit in slow syncs that proves it; under a limit of 300 writes a second it was 88 %.
const THROTTLE_LEAST: f64 = 0.25;

/// The same when a limit is known to be set.
const THROTTLE_KNOWN: f64 = 0.1;

/// etcd's own other work writes at least so much a second before it is blamed; a busy backend writes a few MiB.
const OWN_RATE: f64 = 8.0 * MIB;

/// And has this part of the wait.
const OWN_LEAST: f64 = 0.4;

/// A filesystem with less than this part free is nearly full.
const FULL_SHARE: f64 = 0.05;

/// Or with less than this, on one that is large enough: etcd lays out its WAL 64 MiB at a time, and a backend that is compacted
/// needs its size again.
const FULL_BYTES: u64 = 512 << 20;

/// "Large enough": the bound above is at most this part of the whole.
const FULL_BYTES_PART: u64 = 8;

/// Or when it will be full within this time at the present rate, in seconds ...
const FULL_WITHIN_S: u64 = 600;

/// ... provided no more than this part is left: a burst on an empty disk is no emergency.
const FULL_WITHIN_SHARE: f64 = 0.25;

/// Growth by others that makes the one who writes most the culprit, in bytes a second.
const GROWTH_LEAST: u64 = 64 << 10;

/// Fewer inodes than this and nothing new can be created.
const INODES_LEAST: u64 = 100;

/// Nobody is shown among the culprits whose part is below this.
const SHOWN_LEAST: f64 = 0.02;

/// `ENOSPC` and `EDQUOT`: no fault of the device.
const NO_ROOM: [i32; 2] = [28, 122];

const MOVE_AWAY: &str = "Move or limit that work (io.max or blkio of its cgroup, ionice, another time), or give etcd's data a disk of its own.";

fn of_harm(facts: &Facts, part: f64) -> u64 {
    (facts.harm.lost_ns as f64 * part) as u64
}

/// Others' requests on the disk.
pub fn neighbour(facts: &Facts, split: &Split) -> Option<Finding> {
    if split.disk() < DISK_LEAST || is_metadata(facts, split) || is_open_question(facts, split) {
        return None;
    }
    let is_known = split.neighbours >= NEIGHBOUR_LEAST && split.neighbour_rate >= NEIGHBOUR_RATE;
    let is_vague = split.neighbours + split.vague >= VAGUE_LEAST
        && split.others_rate >= VAGUE_RATE
        && journal_user(facts, split).is_none();
    if !is_known && !is_vague {
        return None;
    }
    let part = if is_known { split.neighbours } else { (split.neighbours + split.vague).min(1.0) };
    let data = facts.slow.others.iter().filter(|other| other.is_data() && (other.is_sure() || !is_known));
    let shown: Vec<_> = data.filter(|other| other.culprit.share >= SHOWN_LEAST).collect();
    let first = shown.first()?;
    let confidence = match (is_known, first.culprit.certainty) {
        (true, Confidence::High) if part >= VAGUE_LEAST => Confidence::High,
        (true, _) => Confidence::Medium,
        (false, _) => Confidence::Low,
    };
    let summary = format!(
        "{} of the time that slow syncs of {} waited for the disk, others' requests were served: {} wrote or read {} meanwhile, {} of the wait is its",
        percent(part),
        facts.member,
        first.culprit.name(),
        bytes(first.bytes),
        percent(first.culprit.share),
    );
    let finding = finding(facts, Cause::DiskNeighbour, part * split.disk(), confidence)
        .saying(summary, MOVE_AWAY)
        .with_syncs(facts, split)
        .with("others' part of the wait for disks", percent(part))
        .with("others' data while slow syncs waited", format!("{}/s", bytes(split.others_rate as u64)));
    // Who it is may still be on its way.
    let confirmations = if is_known { finding.confirmations } else { 3 };
    Some(Finding {
        culprits: shown.iter().map(|other| other.culprit.clone()).collect(),
        confirmations,
        weight_ns: of_harm(facts, part * split.disk()),
        ..finding
    })
}

/// Whoever changes metadata, when the journal is what slow syncs wait for.
fn journal_user<'a>(facts: &'a Facts, split: &Split) -> Option<&'a Culprit> {
    let user = facts.storage.journal_users.first()?;
    let is_it = split.journal >= JOURNAL_LEAST && user.share >= JOURNAL_USER_LEAST && user.is_named();
    // Workers that change more than all others together bring somebody's data to the disk.
    (is_it && facts.storage.journal_workers_share < 0.5).then_some(user)
}

/// Whether the journal is what slow syncs wait for, and it is not known yet on whose behalf: it takes a second from the first of them on.
fn is_open_question(facts: &Facts, split: &Split) -> bool {
    split.journal >= JOURNAL_LEAST && !facts.storage.is_journal_seen && facts.harm.bad < 3
}

/// Whether the neighbour with the greatest part is one who changes metadata and little else.
fn is_metadata(facts: &Facts, split: &Split) -> bool {
    let (Some(user), Some(first)) = (journal_user(facts, split), facts.neighbours().next()) else {
        return false;
    };
    user.is_same(&first.culprit)
        && split.journal >= 0.5
        && facts.storage.journal_user_bytes >= first.bytes.saturating_mul(METADATA_RATIO)
}

/// Others' metadata in the journal.
pub fn journal(facts: &Facts, split: &Split, found: &[Finding]) -> Option<Finding> {
    let user = journal_user(facts, split)?;
    if let Some(neighbour) = found.iter().find(|finding| finding.cause == Cause::DiskNeighbour) {
        let is_neighbour = neighbour.culprits.iter().any(|culprit| culprit.is_same(user));
        // A neighbour's data make the journal slow as well: only somebody else is a second cause.
        if is_neighbour || split.journal < JOURNAL_BESIDE || user.share < JOURNAL_BESIDE {
            return None;
        }
    }
    let confidence =
        if user.share >= 0.6 && split.journal >= 0.5 { Confidence::High } else { Confidence::Medium };
    let summary = format!(
        "slow syncs of {} spend {} of their time in the commits of its filesystem's journal, and {} of the metadata in it was changed by {}",
        facts.member,
        percent(split.journal),
        percent(user.share),
        user.name(),
    );
    let next_step = "Move that work (creating, renaming, deleting, changing many files) to another filesystem; etcd's \
                     data on a filesystem of its own ends it.";
    let finding = finding(facts, Cause::JournalContention, split.journal, confidence)
        .saying(summary, next_step)
        .with_syncs(facts, split)
        .with("the journal's part of slow syncs", percent(split.journal))
        .with("metadata changed by the first culprit", bytes(facts.storage.journal_user_bytes));
    let users = facts.storage.journal_users.iter();
    Some(Finding {
        culprits: users.filter(|user| user.share >= SHOWN_LEAST && user.is_named()).cloned().collect(),
        weight_ns: of_harm(facts, split.journal),
        ..finding
    })
}

/// The device itself.
pub fn slow_device(facts: &Facts, split: &Split, found: &[Finding]) -> Option<Finding> {
    let service = split.service();
    // Beside a limit or a lack of CPU, the device is judged by what is left.
    let rest = (1.0 - split.throttle - split.run_queue - split.quota - split.steal).max(0.0);
    if service < 0.2 || service < 0.4 * rest || service + split.queues() < 0.6 * rest {
        return None;
    }
    let service_ns = service * split.mean_ns;
    let usual_ns = facts.usual.map_or(0.0, |usual| usual.as_nanos() as f64);
    let slow_share = share(facts.wal_now.slow, facts.wal_now.count);
    let is_long = service_ns >= SERVICE_LEAST_NS.max(SERVICE_TIMES * usual_ns);
    if !is_long || slow_share < SLOW_DEVICE_LEAST || is_consequence(facts, split, found, service_ns) {
        return None;
    }
    let summary = format!(
        "the disk of {} is slow by itself: it works {} on an average slow sync{}, and others have {} of the wait",
        facts.member,
        span(service_ns as u64),
        facts.usual.map_or_else(String::new, |usual| format!(
            " where a whole one usually takes {}",
            span(usual.as_nanos() as u64)
        )),
        percent((split.neighbours + split.vague).min(1.0)),
    );
    let next_step = "Check the device (SMART, the volume's limits and health, its controller), compare with the other members, \
                     and move etcd's data to a quicker one; if this member leads, consider moving the leadership.";
    let confidence = if slow_share >= 0.5 { Confidence::High } else { Confidence::Medium };
    let found = finding(facts, Cause::SlowDevice, service + split.queues(), confidence)
        .saying(summary, next_step)
        .with_syncs(facts, split)
        .with("device and flush per slow sync", span(service_ns as u64))
        .with("WAL syncs of 10 ms and more in the last second", percent(slow_share))
        .with("others' data while slow syncs waited", format!("{}/s", bytes(split.others_rate as u64)));
    Some(Finding { weight_ns: of_harm(facts, service + split.queues()), ..found })
}

/// Whether something else explains that the device takes long.
fn is_consequence(facts: &Facts, split: &Split, found: &[Finding], service_ns: f64) -> bool {
    let all_slow = facts.wal_now.p10_ns >= ALL_SLOW_NS;
    let others = split.neighbours + split.vague;
    if is_among(found, Cause::OwnIo) || split.own_rate >= OWN_RATE {
        return true;
    }
    if is_among(found, Cause::DiskNeighbour) {
        let is_small = split.others_rate < BESIDE_RATE && others <= 0.7;
        return !(is_small && all_slow && service_ns >= BESIDE_SERVICE_NS);
    }
    if others >= NOBODY && split.others_rate >= NEIGHBOUR_RATE {
        return true;
    }
    if is_among(found, Cause::JournalContention) {
        return !(all_slow && (split.device + split.flush) * split.mean_ns >= SERVICE_LEAST_NS);
    }
    // Whatever serves a virtual disk needs CPUs itself: beside hogs 76 % of a sync on a loop device was "flush". But some syncs
    // are lucky then (of 200 beside nine busy loops three took long), while a slow device has no quick ones. The first second of
    // starvation is not counted as such yet.
    let starves = facts.cpu.as_ref().is_some_and(Cpu::is_suspect);
    if (starves || is_among(found, Cause::CpuStarvation) || is_among(found, Cause::CpuSteal)) && !all_slow {
        return true;
    }
    // A journal that is full of somebody's metadata writes long as well.
    is_open_question(facts, split)
}

/// An IO limit on its own cgroup.
pub fn throttle(facts: &Facts, split: &Split) -> Option<Finding> {
    let limited = facts.storage.io_limited;
    if limited == Some(false) {
        return None;
    }
    let held = split.throttle >= THROTTLE_LEAST;
    // The bios of a limit are held back before they are requests: what follows from that is seen nowhere.
    let hidden = limited == Some(true)
        && ((split.throttle >= THROTTLE_KNOWN
            && split.throttle + split.unexplained + split.journal_rest() >= 0.5)
            || split.unexplained >= 0.5);
    if !held && !hidden {
        return None;
    }
    let part = if held { split.throttle } else { (split.throttle + split.unexplained).min(1.0) };
    let confidence = match limited {
        Some(true) if held => Confidence::High,
        _ => Confidence::Medium,
    };
    let summary = format!(
        "an IO limit on the cgroup of {} holds its writes back: {} of the time of slow syncs",
        facts.member,
        percent(part)
    );
    let next_step = "Raise or remove the limit of bytes or operations a second on etcd's cgroup or one above it (io.max, \
                     blkio.throttle.*, IOReadBandwidthMax and the like of its unit).";
    let finding = finding(facts, Cause::IoThrottle, part, confidence)
        .saying(summary, next_step)
        .with_syncs(facts, split)
        .with("held back by the limit", percent(split.throttle))
        .with("IO limit on its cgroup", limited.map_or("not known", |set| if set { "set" } else { "none" }));
    Some(Finding { weight_ns: of_harm(facts, part), ..finding })
}

/// etcd's own other work.
pub fn own_io(facts: &Facts, split: &Split, found: &[Finding]) -> Option<Finding> {
    let is_it = split.own >= OWN_LEAST && split.own_rate >= OWN_RATE && split.disk() >= DISK_LEAST;
    if !is_it || is_among(found, Cause::DiskNeighbour) || split.neighbours + split.vague >= NEIGHBOUR_LEAST {
        return None;
    }
    let summary = format!(
        "slow syncs of {} wait for its own other work on the disk (snapshot, defragmentation, backend): {} of the wait, {}/s",
        facts.member,
        percent(split.own),
        bytes(split.own_rate as u64)
    );
    let next_step = "See what it does (events: snapshot, defragmentation, compaction); schedule defragmentation for quiet hours, one \
                     member at a time, and give the WAL a disk of its own (--wal-dir) if this happens often.";
    let finding = finding(facts, Cause::OwnIo, split.own * split.disk(), Confidence::Medium)
        .saying(summary, next_step)
        .with_syncs(facts, split)
        .with("its own other work's part of the wait", percent(split.own))
        .with("its own other work", format!("{}/s", bytes(split.own_rate as u64)));
    Some(Finding { weight_ns: of_harm(facts, split.own * split.disk()), ..finding })
}

/// Requests or syncs that failed: one is enough, etcd ends itself on the first.
pub fn errors(facts: &Facts) -> Option<Finding> {
    let storage = &facts.storage;
    let no_room = NO_ROOM.contains(&storage.errno);
    let syncs = if no_room { 0 } else { storage.sync_errors };
    if storage.io_errors == 0 && syncs == 0 && storage.failure.is_none() {
        return None;
    }
    let said = storage.failure.as_ref().map_or_else(String::new, |cause| format!("; its log says {cause}"));
    let summary = format!(
        "the disk of {} fails: {} requests and {} syncs ended with an error{}{said}",
        facts.member,
        storage.io_errors,
        syncs,
        if storage.errno == 0 { String::new() } else { format!(" (errno {})", storage.errno) }
    );
    let next_step = "Look at the kernel's log of the node and the device's health; replace the disk and the member's data \
                     (remove the member, add it anew) rather than trust what it wrote.";
    let finding = finding(facts, Cause::DeviceErrors, 1.0, Confidence::High)
        .saying(summary, next_step)
        .with("requests that failed", storage.io_errors.to_string())
        .with("syncs that failed", syncs.to_string())
        .with("last errno", storage.errno.to_string());
    Some(Finding { confirmations: 1, weight_ns: 1, ..finding })
}

/// No room.
pub fn nearly_full(facts: &Facts) -> Option<Finding> {
    let storage = &facts.storage;
    let (free, size) = (storage.free_bytes?, storage.size_bytes.filter(|size| *size > 0)?);
    let free_share = share(free, size);
    let grown = storage.grown_bytes_per_s.unwrap_or(0);
    let left_s = free.checked_div(grown).filter(|_| grown >= GROWTH_LEAST);
    let is_low = free_share < FULL_SHARE || free < FULL_BYTES.min(size / FULL_BYTES_PART);
    let is_soon = left_s.is_some_and(|left| left < FULL_WITHIN_S) && free_share < FULL_WITHIN_SHARE;
    let is_out_of_inodes = storage.inodes_free.is_some_and(|free| free > 0 && free < INODES_LEAST);
    let has_failed = storage.sync_errors > 0 && NO_ROOM.contains(&storage.errno);
    if !(is_low || is_soon || is_out_of_inodes || has_failed) {
        return None;
    }
    let when = left_s.map_or_else(String::new, |left| format!(", full in about {} min", left / 60));
    let inodes = if is_out_of_inodes { " and hardly any inodes" } else { "" };
    let summary = format!(
        "the filesystem of {} has {} of {} left ({}){inodes}{when}",
        facts.member,
        bytes(free),
        bytes(size),
        percent(free_share)
    );
    let next_step = "Free space or enlarge the filesystem before etcd can't write its WAL; look at what grew, and keep etcd's data \
                     on a filesystem of its own.";
    let found = finding(facts, Cause::DiskNearlyFull, 1.0, Confidence::High)
        .saying(summary, next_step)
        .with("free", format!("{} ({})", bytes(free), percent(free_share)))
        .with("used up by others", format!("{}/s", bytes(grown)));
    // Without growth nobody fills it now: who did is not known any more.
    let culprits = match left_s {
        Some(_) => storage.fillers.iter().filter(|one| one.is_named() && one.share >= 0.1).cloned().collect(),
        None => Vec::new(),
    };
    Some(Finding { culprits, confirmations: 2, onset: facts.at, weight_ns: 1, ..found })
}

/// Why it is none of these.
pub fn why_not(facts: &Facts, split: &Split, causes: &[Cause]) -> Vec<(Cause, String)> {
    let others = (split.neighbours + split.vague).min(1.0);
    let neighbour = format!(
        "others had {} of the wait for disks, {}/s",
        percent(others),
        bytes(split.others_rate as u64)
    );
    let journal = match facts.storage.journal_users.first() {
        Some(_) if causes.contains(&Cause::DiskNeighbour) => {
            "the journal waits for the neighbour's data".to_owned()
        }
        Some(user) => format!(
            "the journal had {} of the time, and {} changed {} of the metadata",
            percent(split.journal),
            user.name(),
            percent(user.share)
        ),
        None => format!(
            "the journal had {} of the time, and nobody else stands out in it",
            percent(split.journal)
        ),
    };
    let device = if causes.contains(&Cause::DiskNeighbour) {
        "the device was busy with others' requests".to_owned()
    } else if causes.contains(&Cause::CpuStarvation) {
        "what serves a disk may wait for CPUs as well, and some syncs were quick".to_owned()
    } else {
        format!(
            "the device worked {} on an average slow sync",
            span((split.service() * split.mean_ns) as u64)
        )
    };
    let limit = match facts.storage.io_limited {
        Some(false) => "no limit is set on its cgroup".to_owned(),
        _ => format!("{} of the time was held back", percent(split.throttle)),
    };
    let own = format!(
        "its own other work had {} of the wait, {}/s",
        percent(split.own),
        bytes(split.own_rate as u64)
    );
    vec![
        (Cause::DiskNeighbour, neighbour),
        (Cause::JournalContention, journal),
        (Cause::SlowDevice, device),
        (Cause::IoThrottle, limit),
        (Cause::OwnIo, own),
    ]
}
