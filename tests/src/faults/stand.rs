//! A cluster with an agent beside each member, each member on a disk of its own, kept from run to run.
//!
//! The disks are in memory behind a FUSE file that takes as long as a plain SSD: what hits one member's disk reaches no
//! other's, and a neighbour has something to fill up.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::sleep;

use super::actor::{Act, onset, prepare_storm};
use super::diagnosis::Watch;
use super::plan::{MEMBERS, media};
use crate::api::{Api, from_now};
use crate::disk::{Disk, Medium};
use crate::etcd::Cluster;
use crate::load::{Load, Plan as LoadPlan};
use crate::node::{Agent, Aggregator};
use crate::place::Place;
use crate::process::{Process, run_ahead};
use crate::slow::{Delays, Pace};
use crate::stand::VISIBLE_LIMIT;
use crate::{tools, wait};

/// Of each member's disk. Only what is written takes memory.
const DISK_SIZE: u64 = 4 << 30;

/// Of the file on each that neighbours overwrite, so that they change no metadata.
const SCRATCH_SIZE: usize = 96 << 20;

/// Puts a second, moderate.
pub(super) const RATE: u32 = 100;

/// A process that does harm must have begun by then.
const ONSET_LIMIT: Duration = Duration::from_secs(5);

/// Diagnoses of a cluster's first seconds are over by then.
const QUIET_LIMIT: Duration = Duration::from_secs(90);

/// Steps of niceness by which the lab and the aggregator, which belong on other machines, are ahead of what the faults do to
/// this one; more than any fault has.
const AHEAD: i32 = 18;

/// The running whole. Fields are in the order in which they go.
#[derive(Debug)]
pub struct FaultStand {
    /// Puts on the cluster.
    pub load: Load,
    /// One for each member, which sees nothing else.
    pub agents: Vec<Agent>,
    /// The aggregator.
    pub aggregator: Aggregator,
    /// The cluster.
    pub cluster: Cluster,
    /// A client of the aggregator.
    pub api: Api,
    /// The product's id of the cluster.
    pub id: String,
    /// Ids of the members as the API has them, in the cluster's order.
    pub members: Vec<String>,
    /// How fast the disks are by themselves.
    pub pace: Pace,
    /// Where everything lies.
    pub place: Arc<Place>,
    acts: AtomicU32,
}

impl FaultStand {
    /// Starts all of it, and waits until each member's syncs are stored and no diagnosis is open. The disks' filesystems
    /// and speed follow from the seed.
    ///
    /// # Errors
    /// When a part does not start, or does not come to rest.
    pub async fn start(seed: u64) -> Result<Self> {
        ensure!(tools::is_root(), "needs root for probes, disks and cgroups");
        let place = Arc::new(Place::new()?);
        let outcome = Self::in_place(&place, seed).await;
        if outcome.is_err() {
            eprintln!("{}", place.log_tails(20));
        }
        outcome
    }

    async fn in_place(place: &Arc<Place>, seed: u64) -> Result<Self> {
        let since = from_now();
        let mut aggregator = Aggregator::prepare(place, "aggregator", &[])?;
        run_ahead(AHEAD);
        aggregator.daemon =
            aggregator.daemon.through(["nice".to_owned(), "-n".to_owned(), format!("-{AHEAD}")]);
        // The engine loads while etcd elects.
        aggregator.daemon.spawn()?;
        // What thousands of puts a second leave behind must not fill the disks, nor the memory that they are.
        let sparing = [
            "--auto-compaction-mode=revision",
            "--auto-compaction-retention=1000",
            "--max-wals=2",
            "--max-snapshots=1",
        ];
        let builder = (0..MEMBERS).fold(Cluster::builder("etcd"), |builder, at| builder.slow_disk(at));
        let builder = builder.members(MEMBERS).media(&media(seed)).disk_size(DISK_SIZE).args(sparing);
        let cluster = builder.start(place).await?;
        let pace = pace(seed);
        for member in &cluster.members {
            prepare(member.disk())?;
            member.delays()?.set_pace(pace);
        }
        aggregator.daemon.wait_ready().await?;
        let mut agents = Vec::new();
        for (at, member) in cluster.members.iter().enumerate() {
            let directories = [member.data_dir()];
            let mut agent = Agent::prepare(place, &format!("agent-{at}"), &aggregator.ingest, &directories)?;
            agent.daemon.start().await?;
            agents.push(agent);
        }
        let plan = LoadPlan { rate: Some(RATE), clients: 8, ..LoadPlan::default() };
        let load = Load::start(&cluster, &plan)?;
        let api = aggregator.client()?;
        let id = api.wait_cluster(cluster.id().await?, VISIBLE_LIMIT).await?;
        let mut members = Vec::new();
        for at in 0..MEMBERS {
            members.push(format!("{:016x}", cluster.member_id(at).await?));
        }
        let (place, acts) = (place.clone(), AtomicU32::new(0));
        let stand = Self { load, agents, aggregator, cluster, api, id, members, pace, place, acts };
        for at in 0..MEMBERS {
            stand.wait_seen(at, since).await?;
        }
        stand.wait_quiet().await?;
        Ok(stand)
    }

    /// Waits until WAL syncs of a member since a time are stored.
    async fn wait_seen(&self, at: usize, since: SystemTime) -> Result<()> {
        let what = format!("WAL syncs of member {at} to be stored");
        wait::until(&what, VISIBLE_LIMIT, async || {
            let counts = self.api.sync_counts(&self.id, since).await?;
            let seen = counts
                .iter()
                .any(|one| one.member == self.members[at] && one.class == "wal" && one.count > 0);
            Ok(seen.then_some(()))
        })
        .await
    }

    /// Waits until no diagnosis is open.
    ///
    /// # Errors
    /// When one stays open, or the API does not answer.
    pub async fn wait_quiet(&self) -> Result<()> {
        let mut watch = Watch::start(&self.api, &self.id).await?;
        wait::until("no diagnosis to be open", QUIET_LIMIT, async || {
            watch.look().await?;
            ensure!(watch.open() == 0, "{} are", watch.open());
            Ok(Some(()))
        })
        .await
    }

    /// The delays of a member's disk.
    ///
    /// # Errors
    /// Never: all its disks are on FUSE.
    pub fn delays(&self, at: usize) -> Result<Arc<Delays>> {
        self.cluster.members[at].delays()
    }

    /// Starts a process under a name of its own, in these groups, and waits until it has begun.
    ///
    /// # Errors
    /// When it does not begin.
    pub async fn act(&self, name: &str, act: &Act, groups: &[PathBuf]) -> Result<(Process, SystemTime)> {
        let program = self.place.directory("bin")?.join(name);
        if !program.exists() {
            symlink(tools::own("etcdmon-lab")?, &program)?;
        }
        let number = self.acts.fetch_add(1, Ordering::Relaxed);
        let log = self.place.path().join(format!("act-{number}.log"));
        let mut command = Command::new(&program);
        command.args(act.arguments());
        let mut process = Process::start(name, command, &log, groups)?;
        let what = format!("{name} to begin");
        let began = wait::until(&what, ONSET_LIMIT, async || {
            let began = onset(&process.output());
            if began.is_none() {
                process.check_running()?;
            }
            Ok(began)
        });
        let began = began.await.with_context(|| format!("{act:?}"))?;
        Ok((process, began))
    }

    /// Takes away whatever is left of faults: stops, delays, errors, files.
    ///
    /// # Errors
    /// When a file can't be removed.
    pub fn heal(&self) -> Result<()> {
        for member in &self.cluster.members {
            let delays = member.delays()?;
            delays.clear();
            delays.set_pace(self.pace);
            if let Ok(process) = member.process() {
                // One that has ended needs none.
                let _ended = process.signal(libc::SIGCONT);
            }
            remove_inside(&full(member.disk()))?;
        }
        Ok(())
    }

    /// Starts these members, and those that died, again, on disks that are mounted anew. Returns how many there were.
    ///
    /// # Errors
    /// When one does not come back.
    pub async fn repair(&mut self, also: &[usize]) -> Result<usize> {
        let since = from_now();
        let mut repaired = Vec::new();
        for (at, member) in self.cluster.members.iter_mut().enumerate() {
            if also.contains(&at) || !member.is_running() {
                member.restart_on_its_disk().with_context(|| member.name.clone())?;
                repaired.push(at);
            }
        }
        if !repaired.is_empty() {
            self.cluster.wait_ready().await?;
        }
        for at in &repaired {
            self.wait_seen(*at, since).await?;
        }
        Ok(repaired.len())
    }

    /// An error when something of the product panicked or ended.
    ///
    /// # Errors
    /// See above; the message has the end of its log.
    pub fn check_healthy(&mut self) -> Result<()> {
        self.aggregator.daemon.check_healthy()?;
        self.agents.iter_mut().try_for_each(|agent| agent.daemon.check_healthy())
    }

    /// A member in words: its name, its filesystem, whether it leads.
    pub async fn describe(&self, at: usize) -> String {
        let member = &self.cluster.members[at];
        let medium = match member.disk().medium() {
            Medium::Xfs => "xfs",
            Medium::Ext4 => "ext4",
            Medium::Directory => "directory",
        };
        let leads = match self.cluster.metrics(at).await.and_then(|all| all.value("etcd_server_is_leader")) {
            Ok(1.0) => ", leads",
            _ => "",
        };
        format!("{} on {medium}{leads}", member.name)
    }

    /// Waits a moment, for the load to show what is usual.
    pub async fn settle(&self, time: Duration) {
        sleep(time).await;
    }
}

/// How fast a plain SSD is.
fn pace(seed: u64) -> Pace {
    let mut random = StdRng::seed_from_u64(seed ^ 0x55d);
    Pace {
        write: Duration::from_micros(random.random_range(60..=150)),
        flush: Duration::from_micros(random.random_range(300..=900)),
        bytes_per_second: random.random_range(60..=120) << 20,
    }
}

/// Where others' files are on a member's disk.
fn others(disk: &Disk) -> PathBuf {
    disk.path().join("others")
}

/// The file that neighbours overwrite.
pub(super) fn scratch(disk: &Disk) -> PathBuf {
    others(disk).join("scratch")
}

/// Where metadata is changed.
pub(super) fn storm(disk: &Disk) -> PathBuf {
    others(disk).join("storm")
}

/// Where what fills the disk is.
pub(super) fn full(disk: &Disk) -> PathBuf {
    others(disk).join("full")
}

/// What neighbours find on a member's disk, written before the disk has a pace and the load begins.
fn prepare(disk: &Disk) -> Result<()> {
    for directory in [storm(disk), full(disk)] {
        fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
    }
    fs::write(scratch(disk), vec![b's'; SCRATCH_SIZE])?;
    if disk.medium() == Medium::Ext4 {
        prepare_storm(&storm(disk))?;
    }
    fs::File::open(others(disk))?.sync_all()?;
    fs::File::open(scratch(disk))?.sync_all().context("write a neighbour's file")
}

fn remove_inside(directory: &Path) -> Result<()> {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        match fs::remove_file(entry.path()) {
            // A filesystem that gave up takes no change until it is mounted anew.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EROFS | libc::EIO | libc::ENOENT)) => {}
            done => done.with_context(|| entry.path().display().to_string())?,
        }
    }
    Ok(())
}
