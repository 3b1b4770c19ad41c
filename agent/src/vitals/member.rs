//! The vitals of one process.

use std::collections::HashMap;

use etcdmon_proto::v1::{self, Certainty, CulpritOrigin};

use super::Last;
use super::cpu::CpuUsers;
use super::fillers::Filler;
use super::journal::{JournalSlot, MetadataUser};
use super::quota::{Quotas, Sample};
use super::space::{Room, Space};
use super::stops::Stops;
use super::threads::{Threads, Totals};
use crate::clock::{Reading, process_start_wall_ns};
use crate::collect::disk::device::Number;
use crate::discover::{EtcdProcess, ProcFs};
use crate::ebpf::{RequestFailures, Signal};
use crate::encode::autopsies::comm;
use crate::fact::CulpritName;
use crate::probe::examine::names::Names;
use crate::probe::examine::steal;

/// Signals that are shown.
const SIGNALS: usize = 8;

/// Users of the journal that are shown, and of which time.
const JOURNAL_USERS: usize = 5;
const JOURNAL_OVER_NS: u64 = 3_000_000_000;

/// Samples after which a process that is gone is forgotten.
const MISSED: u32 = 60;

/// What a filesystem said longer ago is not known any more.
const ROOM_FOR_NS: u64 = 10_000_000_000;

/// The kernel tells the begin of a process in ticks of 10 ms.
const TICK_NS: i64 = 10_000_000;

/// What is the same for all members.
#[derive(Debug)]
pub struct Node {
    /// Times of its CPUs.
    pub times: Option<steal::Sample>,
    /// Requests that failed; `None` = they are not seen.
    pub failures: Option<Vec<RequestFailures>>,
    /// Whether signals are seen.
    pub sees_signals: bool,
}

/// Who is asked about others.
#[derive(Debug)]
pub struct Asked<'a> {
    /// Users of journals.
    pub journals: &'a JournalSlot,
    /// Users of CPUs.
    pub cpu_users: &'a CpuUsers,
}

/// Counts that begin anew now and then, as one that never falls.
#[derive(Debug, Default)]
struct Growing {
    total: Option<u64>,
    last: u64,
}

impl Growing {
    fn note(&mut self, now: u64) {
        let more = if now >= self.last { now - self.last } else { now };
        self.total = Some(self.total.unwrap_or(0).saturating_add(more));
        self.last = now;
    }
}

/// See the module.
#[derive(Debug)]
pub struct Member {
    process: EtcdProcess,
    space: Option<Space>,
    threads: Threads,
    totals: Option<Totals>,
    quota: Sample,
    stops: Stops,
    stopped_ns: Option<u64>,
    signals: Last<v1::LiveSignal>,
    room: Room,
    /// By disk and errno: what was counted when it was last looked.
    failures: Option<HashMap<(u32, i32), u64>>,
    io_errors: Option<u64>,
    sync_errors: Growing,
    last_errno: i32,
    /// Whether others were looked for on its behalf in the last second.
    waits_for_cpu: bool,
    /// Samples in a row at which it was gone.
    missed: u32,
    shown: v1::LiveVitals,
}

impl Member {
    /// One that was just found.
    pub fn new(process: EtcdProcess) -> Self {
        Self {
            process,
            space: None,
            threads: Threads::default(),
            totals: None,
            quota: Sample::default(),
            stops: Stops::default(),
            stopped_ns: None,
            signals: Last::new(SIGNALS),
            room: Room::default(),
            failures: None,
            io_errors: None,
            sync_errors: Growing::default(),
            last_errno: 0,
            waits_for_cpu: false,
            missed: 0,
            shown: v1::LiveVitals::default(),
        }
    }

    /// A sync returned this negative errno.
    pub const fn failed(&mut self, result: i32) {
        if result < 0 {
            self.last_errno = -result;
        }
    }

    /// Takes in a signal to it.
    pub fn take_signal(&mut self, signal: &Signal, proc: &ProcFs, names: &mut Names, now: Reading) {
        match signal.signal {
            libc::SIGSTOP | libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU if !signal.ignored => {
                self.stops.stop(signal.at_ns);
            }
            libc::SIGCONT | libc::SIGKILL => self.stops.go_on(signal.at_ns),
            // One that its receiver ignores ends nothing.
            _ if signal.ignored => return,
            _ => {}
        }
        let wall_ns = signal.at_ns.cast_signed().saturating_add(now.wall_minus_mono_ns());
        // The id may have been given to another process since.
        let lives = proc.stat(signal.sender_process_id).is_some_and(|stat| {
            signal.sender_process_id != 0
                && process_start_wall_ns(stat.start_ticks) <= wall_ns.saturating_add(TICK_NS)
        });
        let asked = if lives { signal.sender_process_id } else { 0 };
        let name = names.quick(asked, signal.sender_cgroup, now.mono_ns);
        self.signals.push(v1::LiveSignal {
            signal: signal.signal.unsigned_abs(),
            wall_ns,
            sender_process_id: signal.sender_process_id,
            sender_comm: comm(&signal.sender_comm),
            sender_process: name.process,
            sender_cgroup: name.placement.cgroup,
            sender_container_id: name.placement.container_id,
            sender_pod_uid: name.placement.pod_uid,
        });
    }

    /// Takes a sample. Returns how long its threads waited for a CPU since the last one.
    pub fn sample(
        &mut self,
        proc: &ProcFs,
        quotas: &Quotas,
        node: &Node,
        sync_errors: Option<u64>,
        now: Reading,
    ) -> u64 {
        let id = self.process.id;
        self.look_at_room(proc, now);
        let stat = proc.stat(id.pid).filter(|stat| stat.start_ticks == id.start_ticks);
        let before = self.totals;
        self.missed = if stat.is_some() { 0 } else { self.missed.saturating_add(1) };
        if let Some(stat) = stat {
            self.stops.sample(now.mono_ns, matches!(stat.state, 'T' | 't'), node.sees_signals);
            self.stopped_ns = Some(self.stops.total_ns());
            self.totals = self.threads.sample(proc, id.pid).or(self.totals);
            let number = |device: &u32| Number { major: device >> 20, minor: device & 0xf_ffff };
            let devices: Vec<Number> = self.room.disks.iter().map(number).collect();
            self.quota = quotas.look(proc, id, &devices, now.mono_ns);
        }
        self.note_errors(sync_errors, node.failures.as_deref());
        let delay = |totals: Option<Totals>| totals.map_or(0, |totals| totals.run_delay_ns);
        let waited_ns = before.map_or(0, |_| delay(self.totals).saturating_sub(delay(before)));
        self.waits_for_cpu = waited_ns >= super::DELAY_NS;
        waited_ns
    }

    /// Whether it is gone for so long that whoever should have said so will not.
    pub const fn is_forgotten(&self) -> bool {
        self.missed > MISSED
    }

    /// Takes in what failed. etcd ends itself on the first sync that fails, so what failed since the last sample is looked at
    /// once more when it is gone.
    pub fn note_errors(&mut self, sync_errors: Option<u64>, failures: Option<&[RequestFailures]>) {
        if let Some(sync_errors) = sync_errors {
            self.sync_errors.note(sync_errors);
        }
        if let Some(failures) = failures {
            self.note_failures(failures);
        }
    }

    fn look_at_room(&mut self, proc: &ProcFs, now: Reading) {
        if self.space.is_none() {
            match Space::start(proc.clone(), &self.process) {
                Ok(space) => self.space = Some(space),
                Err(error) => tracing::warn!(%error, "start the thread that asks a filesystem"),
            }
        }
        if let Some(space) = &self.space {
            self.room = space.room();
        }
        self.forget_old_room(now);
    }

    fn forget_old_room(&mut self, now: Reading) {
        if now.mono_ns.saturating_sub(self.room.at_ns) > ROOM_FOR_NS {
            // The disks stay known: they don't change because one of them hangs.
            let (filesystems, disks) =
                (std::mem::take(&mut self.room.filesystems), std::mem::take(&mut self.room.disks));
            self.room = Room { filesystems, disks, ..Room::default() };
        }
    }

    /// Adds what failed on its disks since the last time. What failed before they were known is not its own.
    fn note_failures(&mut self, failures: &[RequestFailures]) {
        if self.room.disks.is_empty() {
            return;
        }
        let ours = failures.iter().filter(|failure| self.room.disks.contains(&failure.device));
        let now: HashMap<(u32, i32), u64> =
            ours.map(|failure| ((failure.device, failure.errno), failure.count)).collect();
        let mut more = 0_u64;
        if let Some(before) = &self.failures {
            for (key, count) in &now {
                let new = count.saturating_sub(before.get(key).copied().unwrap_or(0));
                if new > 0 {
                    more = more.saturating_add(new);
                    self.last_errno = key.1;
                }
            }
        }
        self.io_errors = Some(self.io_errors.unwrap_or(0).saturating_add(more));
        self.failures = Some(now);
    }

    /// What is shown of it now.
    pub fn vitals(
        &mut self,
        asked: &Asked<'_>,
        node: &Node,
        names: &mut Names,
        now: Reading,
    ) -> v1::LiveVitals {
        let room = (self.room.at_ns > 0).then_some(&self.room);
        let cpu_users =
            if self.waits_for_cpu { self.cpu_users(asked.cpu_users, names, now) } else { Vec::new() };
        self.shown = v1::LiveVitals {
            on_cpu_ns_total: self.totals.map(|totals| totals.on_cpu_ns),
            run_delay_ns_total: self.totals.map(|totals| totals.run_delay_ns),
            cpu_quota_millicpus: self.quota.millicpus,
            cpu_throttled_ns_total: self.quota.refused_ns,
            cpu_throttled_periods_total: self.quota.refused_periods,
            stopped_ns_total: self.stopped_ns,
            signals: self.signals.to_vec(),
            steal_ns_total: node.times.map(|times| times.stolen_ns),
            node_idle_ns_total: node.times.map(|times| times.idle_ns),
            node_cpus: node.times.map_or(0, |times| u32::try_from(times.cpus).unwrap_or(u32::MAX)),
            cpu_users,
            disk_free_bytes: room.map(|room| room.free_bytes),
            disk_size_bytes: room.map(|room| room.size_bytes),
            inodes_free: room.and_then(|room| room.inodes_free),
            io_errors_total: self.io_errors,
            sync_errors_total: self.sync_errors.total,
            last_errno: self.last_errno,
            io_limited: self.quota.io_is_limited,
            journal_users: self.journal_users(asked.journals, names, now),
            disk_grown_by_others_bytes_per_s: room.and_then(|room| room.growth_bytes_per_s),
            disk_fillers: room.map_or_else(Vec::new, |room| {
                room.fillers.iter().map(|filler| self.filler(filler, names, now)).collect()
            }),
        };
        self.shown.clone()
    }

    /// What is shown of it once it is gone: what was known last, and the signals of its end.
    pub fn last(mut self) -> v1::LiveVitals {
        self.shown.signals = self.signals.to_vec();
        self.shown.stopped_ns_total = self.stopped_ns.map(|stopped_ns| stopped_ns.max(self.stops.total_ns()));
        self.shown.io_errors_total = self.io_errors;
        self.shown.sync_errors_total = self.sync_errors.total;
        self.shown.last_errno = self.last_errno;
        (self.shown.cpu_users, self.shown.journal_users) = (Vec::new(), Vec::new());
        self.shown
    }

    fn cpu_users(&self, users: &CpuUsers, names: &mut Names, now: Reading) -> Vec<v1::LiveCpuUser> {
        let user = |user: &super::cpu::User| {
            let name = names.quick(user.process_id, 0, now.mono_ns);
            v1::LiveCpuUser {
                process_id: user.process_id,
                comm: user.comm.clone(),
                process: name.process,
                cgroup: name.placement.cgroup,
                container_id: name.placement.container_id,
                pod_uid: name.placement.pod_uid,
                on_cpu_ns: user.on_cpu_ns,
                threads: user.threads,
            }
        };
        users.besides(self.process.id.pid).map(user).collect()
    }

    fn journal_users(&self, journals: &JournalSlot, names: &mut Names, now: Reading) -> Vec<v1::LiveCulprit> {
        if let Some(first) = self.room.filesystems.first() {
            journals.note_block(*first, self.room.block_bytes);
        }
        if !journals.is_open() {
            return Vec::new();
        }
        let from_ns = now.mono_ns.saturating_sub(JOURNAL_OVER_NS);
        let of = |filesystem: &u32| journals.users(*filesystem, from_ns, now.mono_ns, now.mono_ns);
        let mut users: Vec<MetadataUser> = self.room.filesystems.iter().flat_map(of).collect();
        users.sort_by_key(|user| std::cmp::Reverse(user.dirtied_blocks));
        users.truncate(JOURNAL_USERS);
        // That of the data directory; a filesystem of the WAL's own has hardly ever another one.
        let block_bytes = self.room.filesystems.first().map_or(0, |first| journals.block_bytes(*first));
        let user = |user: &MetadataUser| {
            let (origin, certainty) = match user.process_id {
                0 => (CulpritOrigin::Writeback, Certainty::Low),
                pid if pid == self.process.id.pid => (CulpritOrigin::Itself, Certainty::High),
                _ => (CulpritOrigin::Journal, Certainty::Medium),
            };
            let bytes = user.dirtied_blocks.saturating_mul(block_bytes);
            let name = names.quick(user.process_id, user.cgroup, now.mono_ns);
            culprit(origin, certainty, user.process_id, comm(&user.comm), name, bytes)
        };
        users.iter().map(user).collect()
    }

    fn filler(&self, filler: &Filler, names: &mut Names, now: Reading) -> v1::LiveCulprit {
        let itself = filler.process_id == self.process.id.pid;
        let origin = if itself { CulpritOrigin::Itself } else { CulpritOrigin::Process };
        let certainty = if filler.is_certain { Certainty::High } else { Certainty::Low };
        let name = names.quick(filler.process_id, 0, now.mono_ns);
        let comm = name.process.split(" (").next().unwrap_or_default().to_owned();
        culprit(origin, certainty, filler.process_id, comm, name, filler.bytes)
    }
}

fn culprit(
    origin: CulpritOrigin,
    certainty: Certainty,
    process_id: u32,
    comm: String,
    name: CulpritName,
    bytes: u64,
) -> v1::LiveCulprit {
    v1::LiveCulprit {
        origin: origin.into(),
        process_id,
        comm,
        process: name.process,
        cgroup: name.placement.cgroup,
        container_id: name.placement.container_id,
        pod_uid: name.placement.pod_uid,
        syncs_total: 0,
        wait_ns_total: 0,
        bytes_total: bytes,
        certainty: certainty.into(),
    }
}

#[cfg(test)]
pub mod tests;
