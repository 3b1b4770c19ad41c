//! The engine killed, hung, filled and corrupted in every phase of its life: while it starts, while the schema is looked at,
//! inside inserts and merges, in the middle of a question and of a copy, while it ends. Nobody lends a hand: the keeper
//! kills what hangs, room comes back, broken parts are set aside. After each the books of the syncs must balance, in the end
//! those of every stream, and no row is there twice.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tokio::time::sleep;

use crate::chaos::books::Books;
use crate::chaos::plan::Victim;
use crate::chaos::run::{around, runtime};
use crate::chaos::stand::ChaosStand;
use crate::chaos::steps::{BUSY, ENGINE_LIMIT, SHOWN_LINES, STARTED, new_engine, store, strike};
use crate::fault::FullDisk;
use crate::fault::insert::{Moment, table_directory};
use crate::place::Place;
use crate::process::Process;
use crate::{tools, wait};

/// How long the keeper lets an engine be silent here.
const HANG_TIMEOUT: &str = "5s";

/// How long a disk stays full.
const FULL_FOR: Duration = Duration::from_secs(6);

/// How long a broken part may take to be found.
const FOUND_LIMIT: Duration = Duration::from_secs(60);

/// The same after a question, unless the part was merged away before it.
const TURNED_LIMIT: Duration = Duration::from_secs(30);

/// How long a copy may take to end once the engine is gone.
const COPY_LIMIT: Duration = Duration::from_secs(60);

/// A question that takes a minute.
const LONG_QUESTION: &str = "SELECT sum(sipHash64(number)) FROM numbers(100000000000) SETTINGS max_execution_time = 60, max_threads = 1";

/// What is done to the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// kill -9.
    Killed,
    /// SIGSTOP, and nobody continues it.
    Hung,
    /// kill -9 in the middle of a question that wants all memory, as the kernel does when that runs out.
    OutOfMemory,
    /// No block is free on its disk for a while.
    Filled,
}

/// When.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It opens its store.
    Start,
    /// The schema is looked at.
    Migration,
    /// A part of this table is being written.
    Insert(&'static str),
    /// Parts of this table are being merged.
    Merge(&'static str),
    /// A long question runs.
    Query,
    /// The store is being copied.
    Backup,
    /// Aggregator and engine end in order.
    Shutdown,
}

/// One time that the engine is hit.
#[derive(Debug, Clone, Copy)]
pub enum Hit {
    /// A fault in a phase.
    In(Phase, Fault),
    /// A file of a part of this table is cut short while the engine is dead: found when it starts.
    Cut(&'static str),
    /// A byte of a part of this table is turned: found by a question or a merge.
    Turned(&'static str),
}

/// A few hits of each kind, for whoever names this part without the full tier.
pub fn few() -> Vec<Hit> {
    use Hit::{Cut, In, Turned};
    vec![
        Turned("metrics"),
        Cut("writes"),
        In(Phase::Query, Fault::Hung),
        In(Phase::Insert("metrics"), Fault::Filled),
        In(Phase::Merge("sync_histograms"), Fault::Killed),
        In(Phase::Backup, Fault::Killed),
    ]
}

/// The hits of the full tier: fifty.
pub fn all() -> Vec<Hit> {
    let mut hits = Vec::new();
    let always = [
        Phase::Start,
        Phase::Migration,
        Phase::Query,
        Phase::Backup,
        Phase::Merge("metrics"),
        Phase::Shutdown,
    ];
    for phase in always.into_iter().chain([Phase::Merge("sync_histograms")]).chain(BUSY.map(Phase::Insert)) {
        for fault in [Fault::Killed, Fault::Hung, Fault::Filled] {
            hits.push(Hit::In(phase, fault));
        }
    }
    for phase in
        [Phase::Start, Phase::Query, Phase::Insert("metrics"), Phase::Merge("sync_histograms"), Phase::Backup]
    {
        hits.push(Hit::In(phase, Fault::OutOfMemory));
    }
    for table in ["metrics", "writes", "syncs"] {
        hits.extend([Hit::Turned(table), Hit::Cut(table), Hit::Turned(table), Hit::Cut(table)]);
    }
    hits
}

/// Goes through the hits on a stand of its own; blocks the thread.
///
/// # Errors
/// When a hit can't be done, the engine does not recover, the books do not balance after it, or a row is stored twice.
pub fn run(hits: &[Hit]) -> Result<()> {
    runtime().block_on(async {
        let place = Arc::new(Place::new()?);
        let outcome = on_a_stand(&place, hits).await;
        outcome.with_context(|| place.log_tails(SHOWN_LINES))
    })
}

async fn on_a_stand(place: &Arc<Place>, hits: &[Hit]) -> Result<()> {
    let mut stand = ChaosStand::with(place, 1, &[("--clickhouse-hang-timeout", HANG_TIMEOUT)]).await?;
    let mut books = Books::settled(&stand.stand).await?;
    for (number, hit) in hits.iter().enumerate() {
        let began = Instant::now();
        let mut seen = String::new();
        let (after, text) = around(&mut stand, &books, async |stand| {
            sleep(Duration::from_secs_f64(rand::random_range(1.0..2.5))).await;
            seen = strike_at(stand, *hit).await?;
            recovered(stand).await?;
            Ok(None)
        })
        .await
        .with_context(|| format!("hit {hit:?}"))?;
        books = after;
        let took = began.elapsed().as_secs_f64();
        println!("[hit {}/{}] {hit:?}: {seen}; {text} ({took:.0} s)", number + 1, hits.len());
    }
    println!("engine's life ended: {}", stand.finish().await?);
    Ok(())
}

async fn strike_at(stand: &mut ChaosStand, hit: Hit) -> Result<String> {
    match hit {
        Hit::In(phase, fault) => in_phase(stand, phase, fault).await,
        Hit::Cut(table) => cut(stand, table).await,
        Hit::Turned(table) => turned(stand, table).await,
    }
}

/// Whatever was done is over, and the store takes rows again.
async fn recovered(stand: &mut ChaosStand) -> Result<()> {
    stand.pid(Victim::Engine).await?;
    let api = &stand.stand.api;
    wait::until("the store to be well", ENGINE_LIMIT, async || {
        let (_, text) = api.raw("/readyz").await?;
        Ok(text.contains(r#""store":{"status":"ok""#).then_some(()))
    })
    .await
}

/// What lasts while a phase lasts.
enum Under {
    Nothing,
    Statement(tokio::task::JoinHandle<()>),
    Copy(Process, PathBuf),
}

async fn in_phase(stand: &mut ChaosStand, phase: Phase, fault: Fault) -> Result<String> {
    let old = stand.pid(Victim::Engine).await?;
    if fault == Fault::OutOfMemory {
        // Refused by the engine itself if it comes to that; by then it is dead.
        let statement = ask(stand, "SELECT groupArray(number) FROM numbers(10000000000)")?;
        tokio::spawn(statement);
        sleep(Duration::from_millis(200)).await;
    }
    let mut victim = old;
    let under = match phase {
        Phase::Start | Phase::Migration => {
            victim = begin_again(stand, old, phase).await?;
            Under::Nothing
        }
        Phase::Insert(_) => Under::Nothing,
        Phase::Merge(table) => {
            Under::Statement(tokio::spawn(ask(stand, &format!("OPTIMIZE TABLE etcdmon.{table} FINAL"))?))
        }
        Phase::Query => {
            let statement = Under::Statement(tokio::spawn(ask(stand, LONG_QUESTION)?));
            sleep(Duration::from_millis(300)).await;
            statement
        }
        Phase::Backup => begin_copy(stand).await?,
        Phase::Shutdown => {
            stand.stand.aggregator.daemon.process()?.signal(libc::SIGTERM)?;
            sleep(Duration::from_millis(rand::random_range(0..200))).await;
            Under::Nothing
        }
    };
    let seen = hit_now(stand, phase, fault, victim).await?;
    if phase == Phase::Shutdown {
        let status = stand.stand.aggregator.daemon.wait_end(ENGINE_LIMIT).await?;
        ensure!(status.success(), "ended on SIGTERM with {status}");
        stand.stand.aggregator.daemon.start().await?;
    } else if fault != Fault::Filled {
        new_engine(stand, victim).await?;
    }
    end(under).await?;
    Ok(seen)
}

/// The fault itself, in this very moment.
async fn hit_now(stand: &mut ChaosStand, phase: Phase, fault: Fault, victim: u32) -> Result<String> {
    let signal = match fault {
        Fault::Killed | Fault::OutOfMemory => libc::SIGKILL,
        Fault::Hung => libc::SIGSTOP,
        Fault::Filled => {
            let full = FullDisk::fill(stand.disk(Victim::Engine).path())?;
            sleep(FULL_FOR).await;
            let told = phase == Phase::Shutdown
                || stand.stand.api.raw("/api/v1/store").await?.1.contains(r#""disk_full":true"#);
            drop(full);
            ensure!(told, "a full disk is not told");
            return Ok(format!("no room for {} s, and told", FULL_FOR.as_secs()));
        }
    };
    match phase {
        Phase::Insert(table) => {
            let inside = strike(stand, table, Moment::Begun, victim, signal).await?;
            Ok(format!("inside an insert: {inside}"))
        }
        Phase::Merge(table) => {
            // It may have been over before anybody looked; then in the next one, or soon after.
            let directory = table_directory(&store(stand), table)?;
            let watch = crate::fault::insert::InsertWatch::new(&directory)?;
            let inside = tokio::task::spawn_blocking(move || {
                watch.strike(Moment::Merging, victim, signal, Duration::from_secs(5)).is_ok()
            })
            .await?;
            if !inside {
                send(victim, signal);
            }
            Ok(format!("inside a merge: {inside}"))
        }
        _ => {
            let there = send(victim, signal);
            Ok(if there { "in time" } else { "it had ended already" }.to_owned())
        }
    }
}

fn send(process: u32, signal: i32) -> bool {
    // SAFETY: plain system call on a process that was just seen as our aggregator's child.
    unsafe { libc::kill(process.cast_signed(), signal) == 0 }
}

/// Kills the engine, and gives the next one when it has begun to start, or to answer.
async fn begin_again(stand: &mut ChaosStand, old: u32, phase: Phase) -> Result<u32> {
    let started = stand.stand.aggregator.daemon.output().matches(STARTED).count();
    stand.stand.aggregator.kill_engine()?;
    new_engine(stand, old).await?;
    let pid = stand.stand.aggregator.engine_pid()?;
    if phase == Phase::Migration {
        let daemon = &stand.stand.aggregator.daemon;
        wait::until("the engine to answer", ENGINE_LIMIT, async || {
            Ok((daemon.output().matches(STARTED).count() > started).then_some(()))
        })
        .await?;
    }
    sleep(Duration::from_millis(rand::random_range(0..80))).await;
    Ok(pid)
}

/// `store backup` as its users run it, when it has begun to write.
async fn begin_copy(stand: &ChaosStand) -> Result<Under> {
    let place = &stand.stand.place;
    let target = place.path().join(format!("copy-{}", rand::random::<u32>()));
    let mut command = Command::new(tools::own("etcd-monitor-aggregator")?);
    command.arg("--state-dir").arg(&stand.stand.aggregator.state).args(["store", "backup"]).arg(&target);
    let process = Process::start("copy", command, &place.path().join("copy.log"), &[])?;
    wait::until("a copy to begin", COPY_LIMIT, async || Ok(target.exists().then_some(()))).await?;
    Ok(Under::Copy(process, target))
}

/// A statement may fail and a copy may be cut off; what must not be is that they never end.
async fn end(under: Under) -> Result<()> {
    match under {
        Under::Nothing => {}
        Under::Statement(task) => task.abort(),
        Under::Copy(mut process, target) => {
            wait::until("the copy to end", COPY_LIMIT, async || Ok(process.ended())).await?;
            // There is none when it was cut off early.
            let _removed = std::fs::remove_dir_all(target);
        }
    }
    Ok(())
}

/// A statement past the aggregator, with the key that lies beside the store.
fn ask(stand: &ChaosStand, sql: &str) -> Result<impl Future<Output = ()> + Send + use<>> {
    let text =
        std::fs::read(store(stand).join("etcd-monitor-engine.json")).context("the engine's address")?;
    let address: serde_json::Value = serde_json::from_slice(&text)?;
    let (url, key) = (address["url"].as_str().context("url")?, address["key"].as_str().context("key")?);
    let client = reqwest::Client::builder().no_proxy().timeout(ENGINE_LIMIT).build()?;
    let sent = client.post(url).header("x-clickhouse-key", key).body(sql.to_owned()).send();
    Ok(async {
        // Most of them end with the engine.
        let _answer = sent.await;
    })
}

/// What of broken parts the aggregator has told.
async fn lost_parts(stand: &ChaosStand) -> Result<u64> {
    let (_, text) = stand.stand.api.raw("/metrics").await?;
    let line = text.lines().find_map(|line| line.strip_prefix("etcdmon_aggregator_store_lost_parts_total "));
    line.and_then(|value| value.trim().parse().ok()).context("no lost parts in /metrics")
}

/// The largest file of values in the largest part of a table that is not being written.
fn largest_file(directory: &Path) -> Result<PathBuf> {
    let parts = std::fs::read_dir(directory)?.flatten().filter(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        name.starts_with(|letter: char| letter.is_ascii_digit())
    });
    let files = parts.flat_map(|part| std::fs::read_dir(part.path()).into_iter().flatten().flatten());
    let values = files.filter(|file| file.path().extension().is_some_and(|ending| ending == "bin"));
    let largest = values.max_by_key(|file| file.metadata().map_or(0, |about| about.len()));
    Ok(largest.context("no part")?.path())
}

async fn found(stand: &ChaosStand, before: u64, limit: Duration) -> Result<()> {
    wait::until("the broken part to be told", limit, async || {
        Ok((lost_parts(stand).await? > before).then_some(()))
    })
    .await
}

async fn cut(stand: &mut ChaosStand, table: &str) -> Result<String> {
    let before = lost_parts(stand).await?;
    let old = stand.pid(Victim::Engine).await?;
    send(old, libc::SIGSTOP);
    let file = largest_file(&table_directory(&store(stand), table)?)?;
    let length = file.metadata()?.len();
    std::fs::OpenOptions::new().write(true).open(&file)?.set_len(length / 2)?;
    send(old, libc::SIGKILL);
    new_engine(stand, old).await?;
    found(stand, before, FOUND_LIMIT).await?;
    Ok(format!("{} of {length} bytes cut off, found at the start", length - length / 2))
}

async fn turned(stand: &mut ChaosStand, table: &str) -> Result<String> {
    let before = lost_parts(stand).await?;
    for attempt in 0..5 {
        let file = largest_file(&table_directory(&store(stand), table)?)?;
        let mut bytes = std::fs::read(&file)?;
        // Another byte each time: the same one would be mended.
        let middle = bytes.len() / 2 + attempt;
        bytes[middle] ^= 0xff;
        // In place, as a disk does it; a part that was merged away meanwhile takes the damage along.
        let written = std::fs::OpenOptions::new().write(true).open(&file);
        let Ok(written) = written else { continue };
        std::os::unix::fs::FileExt::write_all_at(&written, &bytes[middle..=middle], middle as u64)?;
        ask(stand, &format!("SELECT sum(cityHash64(*)) FROM etcdmon.{table}"))?.await;
        if found(stand, before, TURNED_LIMIT).await.is_ok() {
            return Ok(format!("byte {middle} of {} turned, found by a question or a merge", bytes.len()));
        }
    }
    bail!("no broken part of {table} was found in five tries")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_full_tier_has_fifty_hits() {
        assert!(all().len() >= 50, "{}", all().len());
    }
}
