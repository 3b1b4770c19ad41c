//! What has to do with CPUs and with being left to run.

use super::split::Split;
use super::words::{cpus, percent, span};
use super::{finding, is_among};
use crate::diagnosis::facts::{Cpu, Facts, is_kernel_thread};
use crate::diagnosis::{Cause, Confidence, Culprit, CulpritKind, Finding};

/// Standing still for this long is harm: etcd's heartbeat interval.
const STOPPED_LEAST_NS: u64 = 100_000_000;

/// The run queue's part of slow syncs from which on it is their cause.
const RUN_QUEUE_LEAST: f64 = 0.4;

/// The same for syncs alone, which are short beside a second.
const IDLE_IN_SYNCS: f64 = 0.3;

/// With CPUs to spare, a process can only starve where it may not use them: then it waits for so many CPUs ...
const PINNED_DELAY: f64 = 1.0;

/// ... for so many times as long as it runs ...
const PINNED_RATIO: f64 = 12.0;

/// ... while somebody uses half a CPU and more.
const PINNED_USER: f64 = 0.5;

/// Others must use this part of the node's CPU time before they are to blame.
const USERS_LEAST: f64 = 0.3;

/// One who uses this part of it leaves etcd what its cgroup has by right.
const MOST: f64 = 0.5;

/// And this part is nearly all of it.
const NEARLY_ALL: f64 = 0.75;

/// The same beside a quota, which delays threads too.
const USERS_BESIDE_QUOTA: f64 = 0.5;

/// Nobody is a culprit with less than this part of the node's CPU time.
const USER_LEAST: f64 = 0.05;

/// A quota that refuses this much is believed at once.
const QUOTA_MUCH: f64 = 0.3;

/// The hypervisor takes this part of all CPU time.
const STEAL_LEAST: f64 = 0.2;

/// And has this part in slow syncs.
const STEAL_PART: f64 = 0.1;

/// A signal stopped it. A stop strikes on return to user mode (since kernel 6.18 the same goes for a quota), so no sync need be
/// slow in what the kernel saw of it, while etcd's own figures see all of it.
pub fn stopped(facts: &Facts) -> Option<Finding> {
    let signals = &facts.signals;
    if signals.stopped_ns < STOPPED_LEAST_NS {
        return None;
    }
    let culprit = signals.stop.as_ref().filter(|stop| stop.sender_process_id != 0).map(|stop| Culprit {
        kind: CulpritKind::Signal,
        process_id: stop.sender_process_id,
        comm: stop.sender_comm.clone(),
        process: stop.sender_process.clone(),
        cgroup: stop.sender_cgroup.clone(),
        container_id: stop.sender_container_id.clone(),
        pod_uid: stop.sender_pod_uid.clone(),
        share: 1.0,
        certainty: Confidence::High,
    });
    let by = match (&culprit, &signals.stop) {
        (Some(culprit), _) => format!(", sent by {}", culprit.name()),
        (None, Some(_)) => ", sent by the kernel itself (a terminal)".to_owned(),
        (None, None) => "; who did it was not seen".to_owned(),
    };
    let what = signals.stop.as_ref().map_or("a signal or a debugger", |stop| name(stop.signal));
    let lasts = if signals.since.is_some() { ", and it still stands still" } else { "" };
    let summary = format!("{} stopped {} for {}{by}{lasts}", what, facts.member, span(signals.stopped_ns));
    let next_step = "Find out why that process stops etcd (debuggers, checkpointing, freezing backups, job control) and keep it from \
                     doing so; a stop of more than the election timeout costs the leadership.";
    let onset = facts.at.minus(std::time::Duration::from_nanos(signals.stopped_ns));
    let finding = finding(
        facts,
        Cause::Stopped,
        1.0,
        if signals.stop.is_some() { Confidence::High } else { Confidence::Medium },
    )
    .saying(summary, next_step)
    .with("stood still for", span(signals.stopped_ns))
    .with("signal", what);
    Some(Finding {
        culprits: culprit.into_iter().collect(),
        confirmations: 1,
        onset,
        weight_ns: signals.stopped_ns,
        ..finding
    })
}

const fn name(signal: u32) -> &'static str {
    match signal {
        19 => "SIGSTOP",
        20 => "SIGTSTP",
        21 => "SIGTTIN",
        22 => "SIGTTOU",
        _ => "a signal",
    }
}

/// Its own quota.
pub fn quota(facts: &Facts) -> Option<Finding> {
    let cpu = facts.cpu.as_ref()?;
    let refused = cpu.throttled?;
    let (seconds, is_now) = cpu.throttled_seconds;
    if !is_now || seconds < 2 || refused < Cpu::THROTTLED_LEAST {
        return None;
    }
    let limit = cpu
        .quota
        .map_or_else(|| "the quota of a cgroup".to_owned(), |quota| format!("the quota of {}", cpus(quota)));
    let summary = format!(
        "{limit} refuses {} CPU time: {} used and {} refused in a second",
        facts.member,
        cpus(cpu.used),
        cpus(refused)
    );
    let next_step = "Raise or remove the CPU limit of etcd's cgroup (resources.limits.cpu of its pod, CPUQuota of its unit); requests \
                     and weights protect others as well, without stopping etcd.";
    let finding = finding(facts, Cause::CpuQuota, refused / (refused + cpu.used).max(1e-9), Confidence::High)
        .saying(summary, next_step)
        .with("CPU time refused", format!("{} per second", span((refused * 1e9) as u64)))
        .with("CPU time used", format!("{} per second", span((cpu.used * 1e9) as u64)))
        .with("quota", cpu.quota.map_or_else(|| "not known".to_owned(), cpus));
    let confirmations = if refused >= QUOTA_MUCH { 1 } else { finding.confirmations };
    Some(Finding { confirmations, weight_ns: (refused * 1e9) as u64, ..finding })
}

/// Others use the CPUs. Seen in slow syncs when these wait for a CPU most of their time; otherwise in all of its threads, since
/// requests starve long before syncs do: beside hogs the median of a put rose from 0.8 to 20 ms, that of a WAL sync from 0.2 to
/// 0.3 ms.
pub fn starvation(facts: &Facts, split: Option<&Split>, found: &[Finding]) -> Option<Finding> {
    let may = facts.cpu.as_ref().is_none_or(|cpu| may_starve(cpu, found));
    let in_syncs = split.filter(|split| split.run_queue >= RUN_QUEUE_LEAST && may);
    let starved = facts.cpu.as_ref().filter(|cpu| is_starved(cpu, found));
    if in_syncs.is_none() && starved.is_none() {
        return None;
    }
    let users = facts.cpu.as_ref().map_or(&[][..], |cpu| cpu.users.as_slice());
    // Reading and writing needs CPU as well: a neighbour on the disk is no second cause for that.
    let is_neighbour = |user: &Culprit| {
        let disk = found.iter().filter(|finding| finding.cause == Cause::DiskNeighbour);
        disk.flat_map(|finding| &finding.culprits).any(|culprit| culprit.is_same(user))
    };
    if in_syncs.is_none() && users.first().is_some_and(is_neighbour) {
        return None;
    }
    // Steal looks the same from within; it is told apart by who uses the CPUs.
    if is_among(found, Cause::CpuSteal)
        && facts.cpu.as_ref().is_none_or(|cpu| cpu.users_share() < USERS_LEAST)
    {
        return None;
    }
    let cpu = facts.cpu.clone().unwrap_or_default();
    let culprits = grouped(users);
    let share = match (in_syncs, starved) {
        (Some(split), _) => split.run_queue,
        (None, _) => cpu.delayed / (cpu.delayed + cpu.used).max(1e-9),
    };
    let by = culprits.first().map_or_else(String::new, |culprit| {
        format!("; most of the node's CPU time is used by {} ({})", culprit.name(), percent(culprit.share))
    });
    let summary = match (starved, in_syncs) {
        (None, Some(split)) => format!(
            "slow syncs of {} wait for a CPU {} of their time{by}",
            facts.member,
            percent(split.run_queue)
        ),
        _ => format!(
            "the threads of {} wait for a CPU {:.0} times as long as they run ({} waited for, {} used){by}",
            facts.member,
            cpu.delayed / cpu.used.max(1e-3),
            cpus(cpu.delayed),
            cpus(cpu.used)
        ),
    };
    let next_step = "Limit or move those processes, or give etcd more weight (CPU requests, CPUWeight, nice) or CPUs of its own.";
    let confidence = if culprits.is_empty() { Confidence::Medium } else { Confidence::High };
    let shared = |share: Option<f64>| share.map_or_else(|| "not known".to_owned(), percent);
    let mut finding = finding(facts, Cause::CpuStarvation, share, confidence)
        .saying(summary, next_step)
        .with("CPUs its threads waited for", cpus(cpu.delayed))
        .with("CPUs its threads used", cpus(cpu.used))
        .with("CPU time of the node that was idle", shared(cpu.idle_share))
        .with("CPU time of the node that others used", percent(cpu.users_share()));
    if let Some(split) = split {
        finding = finding.with("run queue in slow syncs", percent(split.run_queue)).with_syncs(facts, split);
    }
    let weight_ns = facts.harm.lost_ns.max((cpu.delayed * 1e9) as u64);
    // Who has nearly all CPUs for two seconds is believed at once: work that sleeps shares them with others.
    let is_plain = culprits.first().is_some_and(|culprit| culprit.share >= NEARLY_ALL);
    let confirmations = if is_plain { 1 } else { finding.confirmations };
    Some(Finding { culprits, weight_ns, confirmations, ..finding })
}

/// Whether others may be to blame when a thread of it waits for a CPU in its syncs: not when CPUs are idle, unless somebody has one to
/// himself; nor when the quota is used up, unless the node is as well.
fn may_starve(cpu: &Cpu, found: &[Finding]) -> bool {
    let is_full = cpu.idle_share.is_none_or(|idle| idle <= Cpu::FULL);
    if is_among(found, Cause::CpuQuota) {
        return is_full && cpu.users_share() >= USERS_BESIDE_QUOTA;
    }
    let has_one = cpu.users.first().is_some_and(|user| user.share * f64::from(cpu.cpus) >= PINNED_USER);
    is_full || has_one || cpu.idle_share.is_some_and(|idle| idle <= IDLE_IN_SYNCS)
}

/// By all of its threads. How long a thread waited is only counted when it gets its CPU, so one that starves for seconds shows in few
/// of them: the window as a whole counts, if CPUs are short in two seconds of it.
fn is_starved(cpu: &Cpu, found: &[Finding]) -> bool {
    // One who takes most of all CPUs, and leaves none.
    let has_most = || grouped(&cpu.users).first().is_some_and(|user| user.share >= MOST);
    if cpu.is_pressed_now && cpu.pressed >= 2 && has_most() {
        return true;
    }
    let has_quota = is_among(found, Cause::CpuQuota);
    let users = if has_quota { USERS_BESIDE_QUOTA } else { USERS_LEAST };
    // Who uses the CPUs is looked for from the second such second on.
    let is_looked_for = cpu.users.is_empty() && !has_quota && cpu.full >= 3;
    let is_taken = is_looked_for || cpu.users_share() >= users;
    let is_full = cpu.is_full_now && cpu.full >= 2 && Cpu::starves(cpu.used, cpu.delayed);
    let is_pinned = cpu.is_starved_now
        && cpu.starved >= 2
        && cpu.delayed >= PINNED_DELAY
        && cpu.delayed >= PINNED_RATIO * cpu.used
        && !has_quota
        && cpu.users.first().is_some_and(|user| user.share * f64::from(cpu.cpus) >= PINNED_USER);
    (is_full && is_taken) || is_pinned
}

/// Processes of one program in one cgroup are one culprit: eight workers with a quarter of a CPU each are two CPUs' worth.
fn grouped(users: &[Culprit]) -> Vec<Culprit> {
    let mut groups: Vec<Culprit> = Vec::new();
    for user in users.iter().filter(|user| !is_kernel_thread(&user.comm)) {
        let is_same = |group: &&mut Culprit| {
            group.process == user.process && group.comm == user.comm && group.cgroup == user.cgroup
        };
        match groups.iter_mut().find(is_same) {
            Some(group) => group.share = (group.share + user.share).min(1.0),
            None => groups.push(user.clone()),
        }
    }
    groups.sort_by(|a, b| b.share.total_cmp(&a.share));
    groups.retain(|group| group.share >= USER_LEAST);
    groups
}

/// The hypervisor.
pub fn steal(facts: &Facts, split: Option<&Split>) -> Option<Finding> {
    let cpu = facts.cpu.as_ref()?;
    let stolen = cpu.steal_share.filter(|stolen| *stolen >= STEAL_LEAST)?;
    let in_syncs = split.is_some_and(|split| split.steal >= STEAL_PART);
    let in_threads = cpu.is_starved_now && cpu.starved >= 2;
    if !in_syncs && !in_threads {
        return None;
    }
    let summary = format!(
        "the hypervisor gives {} of the CPU time of the node of {} to other machines",
        percent(stolen),
        facts.member
    );
    let next_step =
        "Move the machine to a host that is less crowded, or to a kind that has its CPUs to itself.";
    let share = split.map_or(stolen, |split| split.steal.max(stolen));
    let found = finding(facts, Cause::CpuSteal, share, Confidence::Medium)
        .saying(summary, next_step)
        .with("CPU time of the node that was stolen", percent(stolen));
    Some(Finding { weight_ns: facts.harm.lost_ns.max(1), ..found })
}

/// Why it is none of these.
pub fn why_not(facts: &Facts, split: Option<&Split>) -> Vec<(Cause, String)> {
    let mut all = Vec::new();
    if let Some(cpu) = &facts.cpu {
        let mut text = format!("its threads waited for {} and used {}", cpus(cpu.delayed), cpus(cpu.used));
        if let Some(split) = split {
            text.push_str(&format!(
                "; the run queue had {} of the time of slow syncs",
                percent(split.run_queue)
            ));
        }
        all.push((Cause::CpuStarvation, text));
        all.push((
            Cause::CpuQuota,
            match (cpu.quota, cpu.throttled) {
                (None, None) => "its cgroups have no quota".to_owned(),
                (_, refused) => format!("the quota refused {}", cpus(refused.unwrap_or(0.0))),
            },
        ));
        if let Some(stolen) = cpu.steal_share {
            all.push((Cause::CpuSteal, format!("{} of the CPU time was stolen", percent(stolen))));
        }
        all.push((Cause::Stopped, format!("it stood still for {}", span(facts.signals.stopped_ns))));
    }
    all
}
