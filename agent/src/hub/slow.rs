//! A member's slow syncs for the live stream: sums since the agent began, and the worst culprits. Pure.

use etcdmon_proto::v1;

use crate::autopsy::{Autopsy, Culprit};
use crate::encode::autopsies::comm;
use crate::fact::{CulpritName, SlowSync};

/// Most culprits of a member; the one that was not met for the longest time goes first.
const CULPRITS: usize = 8;

/// The slowest sync is shown for so long.
const SLOWEST_FOR_NS: i64 = 60_000_000_000;

/// Who a culprit is, as far as that does not change.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Who {
    origin: v1::CulpritOrigin,
    process_id: u32,
    cgroup: u64,
    inode: u64,
}

#[derive(Debug)]
struct Met {
    who: Who,
    last_ns: i64,
    live: v1::LiveCulprit,
}

/// See the module.
#[derive(Debug, Default)]
pub struct SlowSyncs {
    live: v1::LiveSlowSyncs,
    met: Vec<Met>,
}

impl SlowSyncs {
    /// Takes in a sync that was examined and began at `wall_ns`.
    pub fn add(&mut self, sync: &SlowSync, wall_ns: i64) {
        let autopsy = &sync.autopsy;
        self.live.examined_total += 1;
        self.live.latency_ns_total = self.live.latency_ns_total.saturating_add(sync.latency_ns);
        self.live.wait_ns_total = self.live.wait_ns_total.saturating_add(autopsy.wait_ns);
        let parts = parts(autopsy);
        self.live.parts_total.get_or_insert_default().add(&parts);
        let is_old = wall_ns.saturating_sub(self.live.slowest_wall_ns) > SLOWEST_FOR_NS;
        if is_old || sync.latency_ns >= self.live.slowest_latency_ns {
            self.live.slowest_wall_ns = wall_ns;
            self.live.slowest_latency_ns = sync.latency_ns;
            self.live.slowest_parts = Some(parts);
        }
        let nobody = CulpritName::default();
        for (place, culprit) in autopsy.culprits.iter().enumerate() {
            self.met(culprit, sync.names.get(place).unwrap_or(&nobody), wall_ns);
        }
    }

    fn met(&mut self, culprit: &Culprit, name: &CulpritName, wall_ns: i64) {
        let anonymous_file = if culprit.cgroup == 0 { culprit.inode } else { 0 };
        let who = Who {
            origin: culprit.origin,
            process_id: culprit.process_id,
            cgroup: culprit.cgroup,
            inode: anonymous_file,
        };
        let place = self.met.iter().position(|met| met.who == who).unwrap_or_else(|| {
            if self.met.len() >= CULPRITS
                && let Some(oldest) = (0..self.met.len()).min_by_key(|place| self.met[*place].last_ns)
            {
                self.met.swap_remove(oldest);
            }
            self.met.push(Met { who, last_ns: wall_ns, live: v1::LiveCulprit::default() });
            self.met.len() - 1
        });
        let met = &mut self.met[place];
        met.last_ns = met.last_ns.max(wall_ns);
        let live = &mut met.live;
        live.origin = culprit.origin.into();
        live.certainty = culprit.certainty.into();
        live.process_id = culprit.process_id;
        live.comm = comm(&culprit.comm);
        // A process that is gone by now keeps the name it had.
        if !name.process.is_empty() {
            live.process.clone_from(&name.process);
        }
        if !name.placement.cgroup.is_empty() {
            live.cgroup.clone_from(&name.placement.cgroup);
            live.container_id.clone_from(&name.placement.container_id);
            live.pod_uid.clone_from(&name.placement.pod_uid);
        }
        live.syncs_total += 1;
        live.wait_ns_total = live.wait_ns_total.saturating_add(culprit.wait_ns);
        live.bytes_total = live.bytes_total.saturating_add(culprit.bytes);
    }

    /// Notes slow syncs that were not examined.
    pub const fn left_out(&mut self, count: u64) {
        self.live.left_out_total = self.live.left_out_total.saturating_add(count);
    }

    /// For the live stream; `None` while there was no slow sync.
    pub fn live(&self) -> Option<v1::LiveSlowSyncs> {
        let is_any = self.live.examined_total > 0 || self.live.left_out_total > 0;
        is_any.then(|| v1::LiveSlowSyncs {
            culprits: self.met.iter().map(|met| met.live.clone()).collect(),
            ..self.live.clone()
        })
    }
}

fn parts(autopsy: &Autopsy) -> v1::SlowSyncParts {
    let (parts, journal) = (autopsy.parts, autopsy.journal);
    v1::SlowSyncParts {
        on_cpu_ns: parts.on_cpu_ns,
        run_queue_ns: parts.run_queue_ns,
        journal_ns: parts.journal_ns,
        queue_ns: parts.queue_ns,
        device_ns: parts.device_ns,
        flush_ns: parts.flush_ns,
        throttle_ns: parts.throttle_ns,
        steal_ns: parts.steal_ns,
        unexplained_ns: parts.unexplained_ns,
        journal_device_ns: journal.device_ns,
        journal_queue_ns: journal.queue_ns,
        journal_flush_ns: journal.flush_ns,
        cpu_quota_ns: autopsy.cpu_quota_ns,
    }
}

#[cfg(test)]
mod tests {
    use etcdmon_proto::v1::{Certainty, CulpritOrigin, FileClass};

    use super::*;
    use crate::autopsy::{JournalParts, Parts};
    use crate::discover::{Placement, ProcessId};

    const SECOND: i64 = 1_000_000_000;

    fn culprit(process_id: u32) -> Culprit {
        Culprit {
            origin: CulpritOrigin::Process,
            process_id,
            comm: *b"fio\0............",
            cgroup: 44,
            inode: 0,
            device: 1,
            requests: 2,
            bytes: 100,
            syncs: 0,
            wait_ns: 7,
            certainty: Certainty::High,
        }
    }

    fn sync(latency_ns: u64, culprits: Vec<Culprit>, process: &str) -> SlowSync {
        let cgroup = if process.is_empty() { String::new() } else { "/lab".to_owned() };
        let placement = Placement { cgroup, ..Placement::default() };
        let names = culprits
            .iter()
            .map(|_| CulpritName { process: process.to_owned(), placement: placement.clone() });
        SlowSync {
            process: ProcessId { boot_id: [1; 16], pid: 7, start_ticks: 9 },
            class: FileClass::Wal,
            start_mono_ns: 5,
            latency_ns,
            thread_id: 8,
            inode: 1,
            device: 2,
            threshold_ns: 10,
            names: names.collect(),
            autopsy: Autopsy {
                parts: Parts { device_ns: latency_ns - 3, journal_ns: 3, ..Parts::default() },
                journal: JournalParts { flush_ns: 2, ..JournalParts::default() },
                wait_ns: 9,
                culprits,
                ..Autopsy::default()
            },
        }
    }

    #[test]
    fn sums_only_grow_and_there_are_none_before_the_first() {
        let mut slow = SlowSyncs::default();
        assert_eq!(slow.live(), None);
        slow.left_out(3);
        slow.add(&sync(20, vec![], ""), SECOND);
        slow.add(&sync(30, vec![], ""), SECOND);
        let live = slow.live().expect("some");
        assert_eq!((live.examined_total, live.left_out_total), (2, 3));
        assert_eq!((live.latency_ns_total, live.wait_ns_total), (50, 18));
        let parts = live.parts_total.expect("some");
        assert_eq!((parts.device_ns, parts.journal_ns, parts.journal_flush_ns), (44, 6, 4));
    }

    #[test]
    fn the_slowest_is_shown_for_a_minute() {
        let mut slow = SlowSyncs::default();
        let shown = |slow: &SlowSyncs| slow.live().expect("some").slowest_latency_ns;
        slow.add(&sync(90, vec![], ""), SECOND);
        slow.add(&sync(30, vec![], ""), 2 * SECOND);
        assert_eq!(shown(&slow), 90);
        slow.add(&sync(30, vec![], ""), 62 * SECOND);
        assert_eq!(shown(&slow), 30);
    }

    #[test]
    fn a_culprit_is_summed_up_and_keeps_its_name_when_it_is_gone() {
        let mut slow = SlowSyncs::default();
        slow.add(&sync(20, vec![culprit(600), culprit(601)], "fio --name=a"), SECOND);
        slow.add(&sync(20, vec![culprit(600)], ""), SECOND);
        let live = slow.live().expect("some");
        let named: Vec<_> = live
            .culprits
            .iter()
            .map(|one| (one.process_id, one.syncs_total, one.wait_ns_total, one.bytes_total))
            .collect();
        assert_eq!(named, [(600, 2, 14, 200), (601, 1, 7, 100)]);
        let first = &live.culprits[0];
        assert_eq!(
            (first.comm.as_str(), first.process.as_str(), first.cgroup.as_str()),
            ("fio", "fio --name=a", "/lab")
        );
    }

    #[test]
    fn of_many_culprits_the_last_ones_are_kept() {
        let mut slow = SlowSyncs::default();
        for number in 0..100 {
            slow.add(&sync(20, vec![culprit(7), culprit(1_000 + number)], ""), i64::from(number) * SECOND);
        }
        let live = slow.live().expect("some");
        let mut named: Vec<u32> = live.culprits.iter().map(|one| one.process_id).collect();
        named.sort_unstable();
        assert_eq!(named, [7, 1_093, 1_094, 1_095, 1_096, 1_097, 1_098, 1_099]);
        assert_eq!(
            live.culprits.iter().find(|one| one.process_id == 7).map(|one| one.syncs_total),
            Some(100)
        );
    }
}
