//! A planned fault put into effect, and what is true from then on.

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use chrono::{DateTime, Utc};
use rand::Rng;
use tokio::task::JoinHandle;

use super::actor::Act;
use super::class::Cause;
use super::plan::{Fault, Planned};
use super::score::{Expected, Wanted};
use super::stand::{FaultStand, full, scratch, storm};
use crate::cgroup::Pod;
use crate::load::{Load, Plan as LoadPlan};
use crate::process::Process;
use crate::slow::{Delays, Errors};

/// Least share of a core that a member is left with, in thousandths: the kernel takes no less.
const LEAST_QUOTA: u32 = 10;

/// A fault that lasts until this is dropped.
pub struct Injected {
    /// What must be said; none = nothing is wrong.
    pub expected: Option<Expected>,
    /// Dropped in this order.
    _guards: Vec<Box<dyn Any + Send>>,
}

/// The cause that a fault is, if it is one.
pub const fn cause(fault: Fault) -> Option<Cause> {
    Some(match fault {
        Fault::Load { .. } => return None,
        Fault::Buffered { .. } | Fault::Fsync { .. } | Fault::Direct { .. } => Cause::DiskNeighbour,
        Fault::Metadata { .. } => Cause::JournalContention,
        Fault::Slow { .. } => Cause::SlowDevice,
        Fault::Errors { .. } => Cause::DeviceErrors,
        Fault::Throttle { .. } => Cause::IoThrottle,
        Fault::Hogs { .. } => Cause::CpuStarvation,
        Fault::Quota { .. } => Cause::CpuQuota,
        Fault::Stop { .. } => Cause::Stopped,
        Fault::Full { .. } => Cause::DiskNearlyFull,
    })
}

/// The members that a fault hits, by their ids.
pub fn hit(stand: &FaultStand, planned: &Planned) -> Vec<String> {
    match planned.fault {
        // There is one node: its CPUs are everybody's.
        Fault::Hogs { .. } => stand.members.clone(),
        _ => vec![stand.members[planned.member].clone()],
    }
}

/// Puts it into effect. `cores` is how much CPU the member used before.
///
/// # Errors
/// When it can't be done.
pub async fn inject(stand: &FaultStand, planned: &Planned, cores: f64) -> Result<Injected> {
    let member = &stand.cluster.members[planned.member];
    let disk = member.disk();
    let mut guards: Vec<Box<dyn Any + Send>> = Vec::new();
    let mut onset = SystemTime::now();
    let mut culprit = Wanted::Nobody;
    let mut doing = None;
    let (mut pod, mut groups) = (None, Vec::new());
    match planned.fault {
        Fault::Load { rate, clients } => {
            let plan = LoadPlan { rate: Some(rate), clients, ..LoadPlan::default() };
            guards.push(Box::new(Load::start(&stand.cluster, &plan)?));
        }
        Fault::Buffered { waiting_mib } => {
            guards.push(Box::new(disk.limit_dirty(u64::from(waiting_mib) << 20)?));
            let (file, kib) = (scratch(disk), 256);
            doing = Some(Act::Write { file, threads: 1, kib, writes: 0, whole: false, direct: false });
        }
        Fault::Fsync { threads, kib, writes, whole, pod: in_pod } => {
            if in_pod {
                pod = Some(Pod::new(&stand.place, &uid(), &container_id())?);
            }
            let file = scratch(disk);
            doing = Some(Act::Write { file, threads, kib, writes, whole, direct: false });
        }
        Fault::Direct { threads, kib } => {
            let file = scratch(disk);
            doing = Some(Act::Write { file, threads, kib, writes: 0, whole: false, direct: true });
        }
        Fault::Metadata { touches } => doing = Some(Act::Storm { directory: storm(disk), touches }),
        Fault::Slow { write_us, flush_us } => {
            let delays = member.delays()?;
            delays.set_write(Duration::from_micros(write_us));
            let flush = Duration::from_micros(flush_us);
            delays.set_syncs(if flush.is_zero() { &[] } else { std::slice::from_ref(&flush) });
            guards.push(Box::new(Programmed { delays, end: None }));
        }
        Fault::Errors { writes, flushes, one_in, millis } => {
            let delays = member.delays()?;
            delays.set_errors(Errors { writes, flushes, one_in });
            guards.push(Box::new(Programmed::for_a_while(delays, Duration::from_millis(millis))));
        }
        Fault::Throttle { writes } => {
            guards.push(Box::new(member.cgroup()?.limit_writes_while(&disk.device_number()?, writes)?));
        }
        Fault::Hogs { threads, urgent, within } => {
            if within {
                groups = member.cgroup()?.procs();
            }
            doing = Some(Act::Hog { threads, urgent });
        }
        Fault::Quota { percent } => {
            guards.push(Box::new(member.cgroup()?.limit_cpu_while(quota(cores, percent))?));
        }
        Fault::Stop { millis, leaves } => doing = Some(Act::Stop { pid: member.pid()?, millis, leaves }),
        Fault::Full { left_mib, kib_per_second } => {
            let (directory, left_mib, kib_per_second) = (full(disk), left_mib.into(), kib_per_second.into());
            doing = Some(Act::Fill { directory, left_mib, kib_per_second });
        }
    }
    if let Some(act) = doing {
        groups.extend(pod.as_ref().map(Pod::procs).unwrap_or_default());
        let (process, began) = stand.act(&planned.process, &act, &groups).await?;
        onset = began;
        culprit = named(&process, pod.as_ref());
        // It ends before what bounds it does.
        guards.insert(0, Box::new(process));
    }
    // After the process that is in it.
    guards.extend(pod.map(|pod| Box::new(pod) as Box<dyn Any + Send>));
    let onset = DateTime::<Utc>::from(onset);
    let expected =
        cause(planned.fault).map(|cause| Expected { cause, members: hit(stand, planned), culprit, onset });
    Ok(Injected { expected, _guards: guards })
}

fn named(process: &Process, pod: Option<&Pod>) -> Wanted {
    Wanted::Process {
        process_id: process.pid(),
        name: process.name().to_owned(),
        pod_uid: pod.map(|pod| pod.uid.clone()).unwrap_or_default(),
    }
}

/// Thousandths of a core that are so many percent of what was used.
fn quota(cores: f64, percent: u32) -> u32 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "some thousandths of a core, never negative"
    )]
    let share = (cores * 10.0 * f64::from(percent)).round() as u32;
    share.max(LEAST_QUOTA)
}

fn uid() -> String {
    let mut bytes = [0_u8; 16];
    rand::rng().fill_bytes(&mut bytes);
    let text = hex(&bytes);
    [&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]].join("-")
}

fn container_id() -> String {
    let mut bytes = [0_u8; 32];
    rand::rng().fill_bytes(&mut bytes);
    hex(&bytes)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a disk was told to do, until it is dropped or its time is over.
struct Programmed {
    delays: Arc<Delays>,
    end: Option<JoinHandle<()>>,
}

impl Programmed {
    fn for_a_while(delays: Arc<Delays>, time: Duration) -> Self {
        let later = delays.clone();
        let end = tokio::spawn(async move {
            tokio::time::sleep(time).await;
            later.clear();
        });
        Self { delays, end: Some(end) }
    }
}

impl Drop for Programmed {
    fn drop(&mut self) {
        if let Some(end) = &self.end {
            end.abort();
        }
        self.delays.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_a_part_of_what_was_used_and_never_less_than_the_kernel_takes() {
        assert_eq!(quota(0.2, 50), 100);
        assert_eq!(quota(0.001, 50), LEAST_QUOTA);
    }

    #[test]
    fn a_pods_names_have_their_length() {
        let uid = uid();
        assert_eq!(uid.split('-').map(str::len).collect::<Vec<_>>(), [8, 4, 4, 4, 12], "{uid}");
        assert_eq!(container_id().len(), 64);
    }
}
