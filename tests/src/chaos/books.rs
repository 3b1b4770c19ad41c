//! The balance of a stretch, drawn at rest on both sides.

use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};

use crate::api::{Blind, WAL_CLASSES, losses};
use crate::chaos::act::Gap;
use crate::oracle::{Row, SyncSeries, count_within};
use crate::stand::Stand;
use crate::wait;

/// How long nothing of what was spooled may be stored once all run again.
const CATCH_UP: Duration = Duration::from_secs(90);

/// Reaching the right number is not enough: it must stay there. What comes still later is found by the next stretch.
const CALM: Duration = Duration::from_millis(2500);

/// Looks at the ledger for rows that lack their account; a group of batches is stored in much less than all of them take.
const LOOKS: usize = 20;

/// What is known at a moment of rest, since the stand began.
#[derive(Debug, Clone)]
pub struct Books {
    /// Stored syncs of all classes.
    pub stored_all: u64,
    /// Stored syncs of WAL and directories.
    pub stored_wal: u64,
    /// Dropped syncs.
    pub dropped: u64,
    /// Stretches without sight.
    pub blind: Vec<Blind>,
    /// Syncs of WAL and directories by etcd's own counters.
    pub etcd_wal: u64,
    /// Stored of all streams without an account: only an agent that dies may leave such.
    pub unannounced: u64,
}

impl Books {
    /// As they are once nothing more arrives.
    ///
    /// # Errors
    /// When the API or etcd does not answer, or there is no end of it.
    pub async fn settled(stand: &Stand) -> Result<Self> {
        let (stored_all, stored_wal, dropped, _) =
            wait::settled("the books", CALM, CATCH_UP, async || read(stand).await).await?;
        wait::until("the rest of the books", CATCH_UP, async || {
            let unannounced = unannounced(stand).await?;
            let (_, blind) = losses(&stand.api.ledger(&stand.id, stand.since).await?);
            let etcd_wal = stand.wal_syncs_by_etcd().await?;
            Ok(Some(Self { stored_all, stored_wal, dropped, blind, etcd_wal, unannounced }))
        })
        .await
    }
}

/// Metrics never rest, and rows are stored before their account: what is under way at this moment looks like rows without one. Hence
/// the least of several looks.
async fn unannounced(stand: &Stand) -> Result<u64> {
    let mut least = u64::MAX;
    for _ in 0..LOOKS {
        let ledger = stand.api.ledger(&stand.id, stand.since).await?;
        least = least.min(ledger.iter().map(|row| row.unannounced).sum());
        if least == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    Ok(least)
}

/// All classes, WAL and directories, dropped, number of blind stretches.
async fn read(stand: &Stand) -> Result<(u64, u64, u64, usize)> {
    let counts = stand.api.sync_counts(&stand.id, stand.since).await?;
    let wal = counts.iter().filter(|count| WAL_CLASSES.contains(&count.class.as_str()));
    let (dropped, blind) = stand.losses().await?;
    Ok((
        counts.iter().map(|count| count.count).sum(),
        wal.map(|count| count.count).sum(),
        dropped,
        blind.len(),
    ))
}

/// Running counts of every member by `perf`.
#[derive(Debug)]
pub struct Perf(Vec<SyncSeries>);

impl Perf {
    /// Begins to count.
    ///
    /// # Errors
    /// When perf is not installed or may not attach.
    pub fn start(stand: &Stand) -> Result<Self> {
        let members = stand.cluster.members.iter();
        Ok(Self(members.map(|member| SyncSeries::start(member.pid()?)).collect::<Result<_>>()?))
    }

    /// Ends the count.
    ///
    /// # Errors
    /// When perf does not end.
    pub fn stop(self) -> Result<Vec<Row>> {
        let mut rows = Vec::new();
        for series in self.0 {
            rows.extend(series.stop()?);
        }
        Ok(rows)
    }
}

/// Checks a stretch that is over and at rest. Returns the books at its end and what they say.
///
/// # Errors
/// When they do not balance.
pub async fn balance(
    stand: &Stand,
    before: &Books,
    perf: &[Row],
    gap: Option<Gap>,
) -> Result<(Books, String)> {
    let total: u64 = perf.iter().map(|row| row.count).sum();
    match gap {
        None => seen_all_along(stand, before, total).await,
        Some(gap) => with_a_gap(stand, before, perf, total, gap).await,
    }
}

/// Nothing was out of sight: stored and dropped are what etcd counted, to the last one.
async fn seen_all_along(stand: &Stand, before: &Books, perf: u64) -> Result<(Books, String)> {
    let now = wait::until("etcd's own count", CATCH_UP, async || stand.wal_syncs_by_etcd().await.map(Some));
    let etcd = now.await? - before.etcd_wal;
    wait::growth("what is stored or dropped of etcd's count", etcd, CATCH_UP, async || {
        let (_, wal, dropped, _) = read(stand).await?;
        Ok((wal + dropped).saturating_sub(before.stored_wal + before.dropped))
    })
    .await?;
    let after = Books::settled(stand).await?;
    let (stored, all) = (after.stored_wal - before.stored_wal, after.stored_all - before.stored_all);
    let (dropped, blind) = (after.dropped - before.dropped, after.blind.len() - before.blind.len());
    let text = format!(
        "stored {stored} = etcd {etcd}, all classes {all} = perf {perf}, dropped {dropped}, blind {blind}"
    );
    ensure!(stored + dropped == etcd, "stored and dropped are not what etcd counted: {text}");
    ensure!(blind == 0, "blind although the agent lived: {text}: {:?}", new_blind(before, &after));
    ensure!(dropped > 0 || all == perf, "not what perf counted: {text}");
    let unannounced = after.unannounced - before.unannounced;
    ensure!(unannounced == 0, "{unannounced} rows without an account although the agent lived: {text}");
    Ok((after, text))
}

/// The agent died: what was outside the gap is accounted for, and what is blind lies in it.
async fn with_a_gap(
    stand: &Stand,
    before: &Books,
    perf: &[Row],
    total: u64,
    gap: Gap,
) -> Result<(Books, String)> {
    let begin = perf.iter().map(|row| row.at).min().unwrap_or(gap.from);
    let end = perf.iter().map(|row| row.at).max().unwrap_or(gap.to);
    let outside = count_within(perf, begin, gap.from) + count_within(perf, gap.to, end);
    let members = stand.cluster.members.len();
    wait::until("all outside the gap to be stored, and the gap told", CATCH_UP, async || {
        let (all, _, dropped, blind) = read(stand).await?;
        let accounted = (all + dropped).saturating_sub(before.stored_all + before.dropped);
        ensure!(accounted >= outside, "{accounted} stored or dropped, perf saw {outside} outside the gap");
        let new = blind - before.blind.len();
        ensure!(new >= members, "{new} blind stretches for {members} members");
        Ok(Some(()))
    })
    .await?;
    let after = Books::settled(stand).await?;
    let (stored, all) = (after.stored_wal - before.stored_wal, after.stored_all - before.stored_all);
    let (dropped, etcd) = (after.dropped - before.dropped, after.etcd_wal - before.etcd_wal);
    let blind = new_blind(before, &after);
    let counted: u64 = blind.iter().map(|blind| blind.count).sum();
    let length = gap.to.duration_since(gap.from).unwrap_or_default();
    let text = format!(
        "stored {all} of perf's {total}, {outside} outside the gap of {:.1} s; dropped {dropped}; WAL: stored {stored} + \
         blind {counted}, etcd {etcd} ({:+})",
        length.as_secs_f64(),
        i128::from(stored + dropped + counted) - i128::from(etcd)
    );
    ensure!(all + dropped <= total, "something counts twice: {text}");
    for stretch in &blind {
        let (from, to) = (SystemTime::from(stretch.from), SystemTime::from(stretch.to));
        ensure!(from >= gap.from && to <= gap.to, "{stretch:?} is not within {gap:?}: {text}");
    }
    Ok((after, text))
}

fn new_blind(before: &Books, after: &Books) -> Vec<Blind> {
    let mut new = after.blind.clone();
    for known in &before.blind {
        if let Some(index) = new.iter().position(|blind| blind == known) {
            new.swap_remove(index);
        }
    }
    new
}
