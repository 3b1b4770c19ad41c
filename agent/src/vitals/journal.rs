//! Who changes metadata, while that makes syncs slow: an on-demand slot over the kernel's counts.
//!
//! jbd2 writes on behalf of everybody, so no request names who filled a journal. A hook at the end of each handle does, but taxes every
//! change of metadata on the host: it is attached when a slow sync waited mostly for its journal, and goes when there was
//! none such for a while. What is known before it was attached is nothing, and so nobody is named for the first one.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use etcdmon_service::logging::ErrorChain;

use crate::autopsy::culprit::MOST;
use crate::autopsy::{Autopsy, Certainty, Culprit, Log, Origin, Window};
use crate::ebpf::{MetadataUsage, Probes};

/// The hook goes after this time without a sync that waited mostly for its journal.
const OPEN_FOR_NS: u64 = 10_000_000_000;

/// After a failure to attach it, the next attempt.
const RETRY_AFTER_NS: u64 = 60_000_000_000;

/// Snapshots of the counts are kept so far apart, and so many: of nearly 10 seconds at least. For a sync that has just ended one is taken
/// sooner, in place of the one before.
const EVERY_NS: u64 = 500_000_000;
const SOONER_NS: u64 = 50_000_000;
const KEPT: usize = 24;

/// Filesystems that are watched at a time.
const FILESYSTEMS: usize = 32;

/// More users than this are told by name and cgroup instead of one by one.
const MANY: usize = 16;

/// Who changed metadata of a filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetadataUser {
    /// The process; 0 = workers of the kernel, for somebody.
    pub process_id: u32,
    /// Name of the thread that was first.
    pub comm: [u8; 16],
    /// Its cgroup in the default hierarchy; 0 = unknown.
    pub cgroup: u64,
    /// Operations, roughly.
    pub handles: u64,
    /// Blocks that they dirtied.
    pub dirtied_blocks: u64,
}

/// Snapshots of the kernel's counts. Pure.
#[derive(Debug, Default)]
struct Snapshots {
    kept: VecDeque<(u64, Vec<MetadataUsage>)>,
}

impl Snapshots {
    /// Whether one is to be taken now, for a span up to `until_ns`.
    fn is_due(&self, until_ns: u64, now_ns: u64) -> bool {
        self.kept.back().is_none_or(|(at_ns, _)| {
            let age_ns = now_ns.saturating_sub(*at_ns);
            age_ns >= EVERY_NS || (*at_ns < until_ns && age_ns >= SOONER_NS)
        })
    }

    fn note(&mut self, now_ns: u64, usage: Vec<MetadataUsage>) {
        let before = self.kept.len().checked_sub(2).and_then(|place| self.kept.get(place));
        if before.is_some_and(|(at_ns, _)| now_ns.saturating_sub(*at_ns) < EVERY_NS) {
            self.kept.pop_back();
        }
        if self.kept.len() >= KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back((now_ns, usage));
    }

    /// What was changed between the last snapshot before `from_ns`, or the first, and the first after `until_ns`, or the
    /// last; most first.
    fn users(&self, filesystem: u32, from_ns: u64, until_ns: u64) -> Vec<MetadataUser> {
        let before = self.kept.iter().rev().find(|(at_ns, _)| *at_ns <= from_ns).or(self.kept.front());
        let after = self.kept.iter().find(|(at_ns, _)| *at_ns >= until_ns).or(self.kept.back());
        let (Some((_, before)), Some((_, after))) = (before, after) else { return Vec::new() };
        let key = |usage: &MetadataUsage| (usage.process_id, usage.cgroup);
        let of_filesystem = |usage: &&MetadataUsage| usage.filesystem == filesystem;
        let before: HashMap<(u32, u64), &MetadataUsage> =
            before.iter().filter(of_filesystem).map(|usage| (key(usage), usage)).collect();
        let mut users: BTreeMap<(u32, u64), MetadataUser> = BTreeMap::new();
        for usage in after.iter().filter(of_filesystem) {
            let earlier = before.get(&key(usage));
            let since = |now: u64, then: fn(&MetadataUsage) -> u64| {
                now.saturating_sub(earlier.map_or(0, |earlier| then(earlier)))
            };
            let handles = since(usage.handles, |earlier| earlier.handles);
            let dirtied_blocks = since(usage.dirtied_blocks, |earlier| earlier.dirtied_blocks);
            let is_worker = usage.comm.starts_with(b"kworker/");
            let who = if is_worker { (0, 0) } else { key(usage) };
            let user = users.entry(who).or_insert(MetadataUser {
                process_id: who.0,
                comm: usage.comm,
                cgroup: who.1,
                handles: 0,
                dirtied_blocks: 0,
            });
            user.handles += handles;
            user.dirtied_blocks += dirtied_blocks;
        }
        let mut users: Vec<MetadataUser> =
            users.into_values().filter(|user| user.dirtied_blocks > 0).collect();
        users.sort_by_key(|user| (std::cmp::Reverse(user.dirtied_blocks), user.process_id));
        if users.len() > MANY { together(users) } else { users }
    }
}

/// Processes of the same name and cgroup as one, under the id of the one that changed most: a script that starts a program for each
/// file is nobody otherwise.
fn together(users: Vec<MetadataUser>) -> Vec<MetadataUser> {
    let mut merged: Vec<MetadataUser> = Vec::new();
    for user in users {
        let same = |known: &&mut MetadataUser| {
            known.process_id != 0 && (known.comm, known.cgroup) == (user.comm, user.cgroup)
        };
        match merged.iter_mut().find(same).filter(|_| user.process_id != 0) {
            Some(known) => {
                known.handles += user.handles;
                known.dirtied_blocks += user.dirtied_blocks;
            }
            None => merged.push(user),
        }
    }
    merged.sort_by_key(|user| (std::cmp::Reverse(user.dirtied_blocks), user.process_id));
    merged
}

#[derive(Debug, Default)]
struct State {
    /// Filesystems whose journal made a sync slow, and when the last one was.
    wanted: BTreeMap<u32, u64>,
    is_open: bool,
    failed_ns: Option<u64>,
    snapshots: Snapshots,
    /// Size of a block, by filesystem.
    block_bytes: BTreeMap<u32, u64>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct JournalSlot {
    probes: Option<Arc<Probes>>,
    state: Mutex<State>,
}

impl JournalSlot {
    /// Without probes it stays closed.
    pub fn new(probes: Option<Arc<Probes>>) -> Self {
        Self { probes, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Whoever panicked left at worst one snapshot out.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a sync that was examined; opens the slot if it waited mostly for a jbd2 journal.
    pub fn note(&self, window: &Window, autopsy: &Autopsy, now_ns: u64) {
        let parts = &autopsy.parts;
        if window.log != Log::Jbd2 || parts.journal_ns < window.latency_ns.div_ceil(2) {
            return;
        }
        let mut state = self.lock();
        let is_new = state.wanted.insert(window.filesystem, now_ns).is_none();
        while state.wanted.len() > FILESYSTEMS
            && let Some(oldest) = state.wanted.iter().min_by_key(|(_, at_ns)| **at_ns).map(|(key, _)| *key)
        {
            state.wanted.remove(&oldest);
        }
        if is_new || !state.is_open {
            self.open(&mut state, now_ns);
        }
    }

    fn open(&self, state: &mut State, now_ns: u64) {
        let Some(probes) = &self.probes else { return };
        if state.failed_ns.is_some_and(|at_ns| now_ns.saturating_sub(at_ns) < RETRY_AFTER_NS) {
            return;
        }
        let filesystems: Vec<u32> = state.wanted.keys().copied().collect();
        match probes.watch_journals(&filesystems) {
            Ok(()) => {
                if !state.is_open {
                    tracing::info!(?filesystems, "syncs wait for the journal: watching who changes metadata");
                }
                state.is_open = true;
                state.failed_ns = None;
                state.snapshots.note(now_ns, probes.metadata_usage());
            }
            Err(error) => {
                tracing::warn!(error = %ErrorChain(&error), "watch who changes metadata");
                state.failed_ns = Some(now_ns);
            }
        }
    }

    /// What is due now and then: a snapshot of the counts, and the hook goes when nobody needs it any more.
    pub fn tick(&self, now_ns: u64) {
        let mut state = self.lock();
        let before = state.wanted.len();
        state.wanted.retain(|_, at_ns| now_ns.saturating_sub(*at_ns) < OPEN_FOR_NS);
        let Some(probes) = self.probes.as_ref().filter(|_| state.is_open) else { return };
        if state.wanted.len() < before {
            let filesystems: Vec<u32> = state.wanted.keys().copied().collect();
            if let Err(error) = probes.watch_journals(&filesystems) {
                tracing::warn!(error = %ErrorChain(&error), "watch who changes metadata");
            }
        }
        if state.wanted.is_empty() {
            tracing::info!("syncs wait for the journal no more");
            state.is_open = false;
            state.snapshots = Snapshots::default();
        } else if state.snapshots.is_due(0, now_ns) {
            state.snapshots.note(now_ns, probes.metadata_usage());
        }
    }

    /// Notes the size of a filesystem's blocks.
    pub fn note_block(&self, filesystem: u32, bytes: u64) {
        let mut state = self.lock();
        if state.block_bytes.len() < FILESYSTEMS && bytes > 0 {
            state.block_bytes.insert(filesystem, bytes);
        }
    }

    /// Size of a filesystem's blocks, or that of most.
    pub fn block_bytes(&self, filesystem: u32) -> u64 {
        self.lock().block_bytes.get(&filesystem).copied().unwrap_or(BLOCK_BYTES)
    }

    /// Whether the hook hangs.
    pub fn is_open(&self) -> bool {
        self.lock().is_open
    }

    /// Who changed metadata of a filesystem in a span, most first; nobody while the slot is closed.
    pub fn users(&self, filesystem: u32, from_ns: u64, until_ns: u64, now_ns: u64) -> Vec<MetadataUser> {
        let mut state = self.lock();
        let Some(probes) = self.probes.as_ref().filter(|_| state.is_open) else { return Vec::new() };
        if state.snapshots.is_due(until_ns, now_ns) {
            state.snapshots.note(now_ns, probes.metadata_usage());
        }
        state.snapshots.users(filesystem, from_ns, until_ns)
    }
}

/// Names who filled the journal as culprits of a sync that waited for it. Shared among them, by the blocks that they dirtied, is what of
/// the wait was the journal's own and is nobody else's; the part of the process itself, and of workers, is nobody's. Pure.
pub fn blame(autopsy: &mut Autopsy, window: &Window, users: &[MetadataUser], block_bytes: u64) {
    let of_journal = autopsy.journal.device_ns + autopsy.journal.queue_ns + autopsy.journal.flush_ns;
    let taken = autopsy.culprits.iter().fold(0_u64, |sum, culprit| sum.saturating_add(culprit.wait_ns));
    let left = of_journal.min(autopsy.wait_ns.saturating_sub(taken));
    let all: u128 = users.iter().map(|user| u128::from(user.dirtied_blocks)).sum();
    for user in users {
        if user.process_id == 0 || user.process_id == window.process_id {
            continue;
        }
        let share = (u128::from(left) * u128::from(user.dirtied_blocks)).checked_div(all).unwrap_or(0);
        let wait_ns = u64::try_from(share).unwrap_or(0);
        // As little as culprits of other origins must have.
        if wait_ns < (autopsy.wait_ns / 100).max(1) {
            continue;
        }
        autopsy.culprits.push(Culprit {
            origin: Origin::Journal,
            process_id: user.process_id,
            comm: user.comm,
            cgroup: user.cgroup,
            inode: 0,
            device: window.disks.first().map_or(0, |disk| disk.device),
            requests: user.handles,
            bytes: user.dirtied_blocks.saturating_mul(block_bytes),
            syncs: 0,
            wait_ns,
            certainty: Certainty::Medium,
        });
    }
    autopsy.culprits.sort_by_key(|culprit| std::cmp::Reverse((culprit.wait_ns, culprit.bytes)));
    autopsy.culprits.truncate(MOST);
}

/// Size of a filesystem's block, where it is not known: only small filesystems of ext4 have another one.
const BLOCK_BYTES: u64 = 4096;

#[cfg(test)]
mod tests {
    use etcdmon_proto::v1::FileClass;

    use super::*;
    use crate::autopsy::{Disk, JournalParts, Parts};

    const S: u64 = 1_000_000_000;
    const HERE: u32 = 254 << 20 | 1;

    fn usage(filesystem: u32, process_id: u32, comm: &[u8; 16], dirtied_blocks: u64) -> MetadataUsage {
        MetadataUsage {
            filesystem,
            process_id,
            comm: *comm,
            cgroup: 9,
            handles: dirtied_blocks / 2,
            dirtied_blocks,
            requested_blocks: dirtied_blocks,
        }
    }

    const TOUCH: &[u8; 16] = b"touch\0\0\0\0\0\0\0\0\0\0\0";
    const WORKER: &[u8; 16] = b"kworker/u4:2\0\0\0\0";

    fn told(users: &[MetadataUser]) -> Vec<(u32, u64)> {
        users.iter().map(|user| (user.process_id, user.dirtied_blocks)).collect()
    }

    #[test]
    fn users_are_differences_of_one_filesystem_between_the_snapshots_around_a_span() {
        let mut snapshots = Snapshots::default();
        assert_eq!(snapshots.users(HERE, 0, S), []);
        snapshots.note(S, vec![usage(HERE, 20, TOUCH, 100)]);
        snapshots.note(2 * S, vec![usage(HERE, 20, TOUCH, 150), usage(9, 21, TOUCH, 7)]);
        snapshots.note(3 * S, vec![usage(HERE, 20, TOUCH, 160), usage(HERE, 22, TOUCH, 70)]);
        assert_eq!(told(&snapshots.users(HERE, S, 2 * S)), [(20, 50)]);
        assert_eq!(told(&snapshots.users(HERE, 2 * S + 5, 2 * S + 9)), [(22, 70), (20, 10)]);
        assert_eq!(told(&snapshots.users(HERE, 0, 9 * S)), [(22, 70), (20, 60)], "as far as it is known");
        assert_eq!(told(&snapshots.users(9, 3 * S, 4 * S)), []);
    }

    #[test]
    fn workers_are_one_and_whoever_was_forgotten_meanwhile_takes_nothing_back() {
        let mut snapshots = Snapshots::default();
        snapshots.note(S, vec![usage(HERE, 20, TOUCH, 100)]);
        let now = vec![usage(HERE, 20, TOUCH, 3), usage(HERE, 30, WORKER, 4), usage(HERE, 31, WORKER, 5)];
        snapshots.note(2 * S, now);
        assert_eq!(told(&snapshots.users(HERE, S, 2 * S)), [(0, 9)]);
    }

    #[test]
    fn many_processes_of_one_name_are_one() {
        let mut snapshots = Snapshots::default();
        snapshots.note(S, vec![]);
        let mut now: Vec<MetadataUsage> = (100..180).map(|pid| usage(HERE, pid, TOUCH, 2)).collect();
        now.push(usage(HERE, 7, b"etcd\0\0\0\0\0\0\0\0\0\0\0\0", 5));
        now.push(usage(HERE, 150, TOUCH, 3));
        now.push(usage(HERE, 30, WORKER, 4));
        snapshots.note(2 * S, now);
        assert_eq!(told(&snapshots.users(HERE, S, 2 * S)), [(150, 80 * 2 + 3), (7, 5), (0, 4)]);
    }

    #[test]
    fn few_snapshots_are_kept() {
        let mut snapshots = Snapshots::default();
        for second in 1..100 {
            assert!(snapshots.is_due(0, second * S));
            snapshots.note(second * S, vec![]);
            assert!(!snapshots.is_due(0, second * S + EVERY_NS - 1));
        }
        assert_eq!(snapshots.kept.len(), KEPT);
    }

    #[test]
    fn for_a_sync_that_has_just_ended_one_is_taken_sooner_and_the_span_that_is_kept_is_as_long() {
        let mut snapshots = Snapshots::default();
        for step in 0..1_000 {
            let now_ns = S + step * SOONER_NS;
            assert!(snapshots.is_due(now_ns, now_ns), "{step}");
            assert!(!snapshots.is_due(now_ns, now_ns - 1) || step == 0, "{step}");
            snapshots.note(now_ns, vec![]);
        }
        let (first, last) = (snapshots.kept[0].0, snapshots.kept[snapshots.kept.len() - 1].0);
        assert_eq!(snapshots.kept.len(), KEPT);
        assert!(last - first >= (KEPT as u64 - 2) * (EVERY_NS - SOONER_NS), "{}", last - first);
    }

    fn window() -> Window {
        Window {
            process_id: 7,
            thread_id: 8,
            class: FileClass::Wal,
            start_ns: S,
            latency_ns: 1_000,
            run_delay_ns: 0,
            on_cpu_ns: None,
            inode: 5,
            filesystem: HERE,
            log: Log::Jbd2,
            disks: vec![Disk { device: 254 << 20, backing_inode: 0, depth: 0 }],
            cgroups: vec![],
        }
    }

    fn slow(journal_ns: u64, others_ns: u64) -> Autopsy {
        let culprit = Culprit {
            origin: Origin::Process,
            process_id: 50,
            comm: *TOUCH,
            cgroup: 0,
            inode: 0,
            device: 1,
            requests: 1,
            bytes: 1,
            syncs: 0,
            wait_ns: others_ns,
            certainty: Certainty::High,
        };
        Autopsy {
            parts: Parts { journal_ns, device_ns: 1_000 - journal_ns, ..Parts::default() },
            journal: JournalParts { device_ns: journal_ns / 2, flush_ns: journal_ns / 4, queue_ns: 0 },
            wait_ns: 1_000,
            culprits: vec![culprit],
            ..Autopsy::default()
        }
    }

    fn user(process_id: u32, dirtied_blocks: u64) -> MetadataUser {
        MetadataUser { process_id, comm: *TOUCH, cgroup: 9, handles: 3, dirtied_blocks }
    }

    #[test]
    fn who_filled_the_journal_shares_what_is_left_of_its_wait() {
        let mut autopsy = slow(800, 100);
        blame(&mut autopsy, &window(), &[user(20, 60), user(7, 20), user(0, 10), user(21, 10)], 4096);
        let told: Vec<_> =
            autopsy.culprits.iter().map(|one| (one.process_id, one.wait_ns, one.origin)).collect();
        // 600 of the wait were the journal's.
        let expected = [(20, 360, Origin::Journal), (50, 100, Origin::Process), (21, 60, Origin::Journal)];
        assert_eq!(told, expected);
        let first = &autopsy.culprits[0];
        assert_eq!((first.certainty, first.bytes, first.requests), (Certainty::Medium, 60 * 4096, 3));
    }

    #[test]
    fn shares_never_add_up_to_more_than_the_wait() {
        for others_ns in [0, 400, 700, 1_000] {
            let mut autopsy = slow(1_000, others_ns);
            blame(&mut autopsy, &window(), &[user(20, 60), user(21, 1)], 4096);
            let sum: u64 = autopsy.culprits.iter().map(|culprit| culprit.wait_ns).sum();
            assert!(sum <= autopsy.wait_ns, "{others_ns}: {sum}");
        }
        let mut autopsy = slow(800, 0);
        blame(&mut autopsy, &window(), &[], 4096);
        assert_eq!(autopsy.culprits.len(), 1);
    }

    #[test]
    fn without_probes_the_slot_stays_closed() {
        let slot = JournalSlot::default();
        slot.note(&window(), &slow(900, 0), S);
        slot.tick(S);
        assert!(!slot.is_open());
        assert_eq!(slot.users(HERE, 0, S, S), []);
        assert_eq!(slot.lock().wanted.len(), 1);
        slot.tick(S + OPEN_FOR_NS);
        assert!(slot.lock().wanted.is_empty());
    }

    #[test]
    fn only_a_sync_that_waited_mostly_for_a_journal_of_jbd2_opens_it() {
        let slot = JournalSlot::default();
        slot.note(&window(), &slow(400, 0), S);
        slot.note(&Window { log: Log::Workers, ..window() }, &slow(900, 0), S);
        assert!(slot.lock().wanted.is_empty());
        for filesystem in 0..100 {
            slot.note(&Window { filesystem, ..window() }, &slow(900, 0), S + u64::from(filesystem));
        }
        assert_eq!(slot.lock().wanted.len(), FILESYSTEMS);
    }
}
