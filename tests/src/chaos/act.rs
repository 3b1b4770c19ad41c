//! Does what an event says, at its times.

use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use tokio::time::{Instant, sleep_until};

use crate::chaos::plan::{Event, Fault, Victim};
use crate::chaos::stand::ChaosStand;
use crate::fault::{FullDisk, Stopped};
use crate::wait;

/// How far before its death an agent may have syncs in memory that it takes along.
pub const IN_MEMORY: Duration = Duration::from_secs(10);

/// What an agent logs for each process when its probes see it.
const ATTACHED: &str = "watching syncs";

/// How long an agent may take to attach again.
const ATTACH_LIMIT: Duration = Duration::from_secs(15);

/// How long an orderly end may take: what waits is stored for ten seconds, a stopped engine is killed after twenty.
const END_LIMIT: Duration = Duration::from_secs(45);

/// The time from which on an agent that died need not have kept what it saw, until the next one is attached.
#[derive(Debug, Clone, Copy)]
pub struct Gap {
    /// Begin.
    pub from: SystemTime,
    /// End.
    pub to: SystemTime,
}

/// Does all of an event's faults; returns when the last is over. The load runs meanwhile.
///
/// # Errors
/// When a fault can't be done, or a process does not come back.
pub async fn act(stand: &mut ChaosStand, event: &Event) -> Result<Option<Gap>> {
    let begin = Instant::now();
    let mut steps: Vec<(Duration, bool, Fault)> = Vec::new();
    for timed in &event.faults {
        steps.push((timed.from, true, timed.fault));
        steps.push((timed.from + timed.hold, false, timed.fault));
    }
    steps.sort_by_key(|step| step.0);
    let mut told = Told::default();
    for (at, begins, fault) in steps {
        sleep_until(begin + at).await;
        if begins { start(stand, fault, &mut told).await? } else { end(stand, fault, &mut told).await? }
    }
    // The engine's keeper starts it again by itself.
    stand.pid(Victim::Engine).await?;
    Ok(told.lost_from.zip(told.attached).map(|(from, to)| Gap { from, to }))
}

/// What happened to the agent.
#[derive(Debug, Default)]
struct Told {
    /// Since when it could not write, if it couldn't.
    kept_from_writing: Option<SystemTime>,
    lost_from: Option<SystemTime>,
    attached: Option<SystemTime>,
}

impl Told {
    fn keeps_from_writing(&mut self, victim: Victim) {
        if victim == Victim::Agent {
            self.kept_from_writing.get_or_insert(SystemTime::now());
        }
    }

    fn died(&mut self, victim: Victim, in_memory: Duration) {
        if victim == Victim::Agent {
            let alone = SystemTime::now() - in_memory;
            let hindered = self.kept_from_writing.map(|since| since - IN_MEMORY);
            self.lost_from = Some(hindered.map_or(alone, |hindered| hindered.min(alone)));
        }
    }
}

async fn start(stand: &mut ChaosStand, fault: Fault, told: &mut Told) -> Result<()> {
    match fault {
        Fault::Killed(victim) => {
            told.died(victim, IN_MEMORY);
            match victim {
                Victim::Agent => stand.stand.agent.daemon.kill(),
                Victim::Aggregator => stand.stand.aggregator.daemon.kill(),
                Victim::Engine => {
                    stand.pid(victim).await?;
                    stand.stand.aggregator.kill_engine()?;
                }
            }
        }
        Fault::Ended(victim) => {
            told.died(victim, Duration::ZERO);
            let daemon = match victim {
                Victim::Agent => &mut stand.stand.agent.daemon,
                _ => &mut stand.stand.aggregator.daemon,
            };
            daemon.process()?.signal(libc::SIGTERM)?;
        }
        Fault::Stopped(victim) => {
            told.keeps_from_writing(victim);
            let pid = stand.pid(victim).await?;
            stand.stopped.push((victim, Stopped::process(pid)?));
        }
        Fault::Full(victim) => {
            told.keeps_from_writing(victim);
            let full = FullDisk::fill(stand.disk(victim).path())?;
            stand.full.push((victim, full));
        }
        Fault::Cut(cut) => stand.relay.cut(cut),
    }
    Ok(())
}

async fn end(stand: &mut ChaosStand, fault: Fault, told: &mut Told) -> Result<()> {
    match fault {
        Fault::Killed(Victim::Engine) => {}
        Fault::Killed(Victim::Agent) => {
            attach(stand).await?;
            told.attached = Some(SystemTime::now());
        }
        Fault::Killed(Victim::Aggregator) => {
            stand.stand.aggregator.daemon.start().await?;
        }
        Fault::Ended(victim) => {
            let daemon = match victim {
                Victim::Agent => &mut stand.stand.agent.daemon,
                _ => &mut stand.stand.aggregator.daemon,
            };
            let status = daemon.wait_end(END_LIMIT).await?;
            ensure!(status.success(), "ended on SIGTERM with {status}\n{}", daemon.tail());
            if victim == Victim::Agent {
                attach(stand).await?;
                told.attached = Some(SystemTime::now());
            } else {
                daemon.start().await?;
            }
        }
        Fault::Stopped(victim) => stand.stopped.retain(|(stopped, _)| *stopped != victim),
        Fault::Full(victim) => stand.full.retain(|(full, _)| *full != victim),
        Fault::Cut(_) => stand.relay.heal(),
    }
    Ok(())
}

/// Starts the agent and waits until its probes see every member.
async fn attach(stand: &mut ChaosStand) -> Result<()> {
    let stand = &mut stand.stand;
    let attached = |output: &str| output.matches(ATTACHED).count();
    let wanted = attached(&stand.agent.daemon.output()) + stand.cluster.members.len();
    stand.agent.daemon.start().await?;
    let daemon = &stand.agent.daemon;
    wait::until("the agent to attach again", ATTACH_LIMIT, async || {
        Ok((attached(&daemon.output()) >= wanted).then_some(()))
    })
    .await
}
