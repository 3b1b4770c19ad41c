//! How much of what was injected is found again, and in the right part: the parts of slow syncs as the API tells them,
//! against what the disk knows that it did and etcd's own histogram.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use tokio::time::sleep;

use super::actor::Act;
use super::effect::Gauge;
use super::plan::{MEMBERS, media};
use super::record::Figure;
use super::stand::{FaultStand, scratch};
use crate::api::stamp;
use crate::disk::Medium;
use crate::slow::{Delayed, Pace};
use crate::wait;

/// Of each write, or each flush.
const DELAY: Duration = Duration::from_millis(40);

/// How long each thing is done.
const STRETCH: Duration = Duration::from_secs(10);

/// Calm in between, so that what is usual stays usual.
const CALM: Duration = Duration::from_secs(12);

/// Writes a second under the throttle.
const THROTTLE: u32 = 15;

/// Syncs below this are not looked at.
const SLOW_NS: u64 = 10_000_000;

/// A sync in which less was injected says little about how well that is found.
const INJECTED_NS: u64 = 10_000_000;

/// How many figures there are: three on each filesystem, two of all syncs.
pub const FIGURES: usize = 8;

/// For stored syncs to be complete.
const STORED: (Duration, Duration) = (Duration::from_secs(4), Duration::from_secs(40));

/// What the lab reads of a slow sync.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
struct SlowSync {
    at: DateTime<Utc>,
    latency_ns: u64,
    parts: Parts,
    journal: Journal,
    gaps: Vec<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Parts {
    device_ns: u64,
    flush_ns: u64,
    throttle_ns: u64,
    unexplained_ns: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Journal {
    device_ns: u64,
    flush_ns: u64,
}

/// Measures all of it; figures as they come go to `tell`.
///
/// # Errors
/// When something does not work, or no sync was slow.
pub async fn measure(
    stand: &FaultStand,
    seed: u64,
    commit: &str,
    mut tell: impl FnMut(Figure) -> Result<()>,
) -> Result<()> {
    let figure = |name: &str, value: f64, (least, most): (f64, f64), from: String| {
        let (commit, figure) = (commit.to_owned(), name.to_owned());
        Figure { commit, seed, figure, value, least, most, from }
    };
    let within = (0.9, 1.1);
    let mut all = Vec::new();
    for (name, at) in one_of_each(seed) {
        for flush in [false, true] {
            let what = if flush { "flush" } else { "write" };
            let (slow, injected) = delayed(stand, at, flush).await?;
            let found = Recovery::of(&slow, &injected, flush);
            let from =
                format!("{} slow WAL syncs on {name}; median of each {:.3}", found.syncs, found.median);
            tell(figure(&format!("recovered_{what}_delay_{name}"), found.ratio, within, from))?;
            all.extend(slow);
            sleep(CALM).await;
        }
        all.extend(neighboured(stand, at).await?);
        sleep(CALM).await;
        let (ratio, from) = throttled(stand, at).await?;
        tell(figure(&format!("throttle_part_{name}"), ratio, within, format!("{from} on {name}")))?;
        sleep(CALM).await;
    }
    let shares = unexplained(&all);
    let gapped = all.iter().filter(|one| !one.gaps.is_empty()).count();
    let from = format!("{} slow WAL syncs without a throttle, evidence of {gapped} with gaps", shares.len());
    tell(figure("unexplained_share_median", quantile(&shares, 0.5), (0.0, 0.05), from.clone()))?;
    tell(figure("unexplained_share_p99", quantile(&shares, 0.99), (0.0, 0.10), from))
}

/// A member on each filesystem.
fn one_of_each(seed: u64) -> Vec<(&'static str, usize)> {
    let media = media(seed);
    let first = |wanted: Medium| (0..MEMBERS).find(|at| media[*at] == wanted);
    let named = [("ext4", first(Medium::Ext4)), ("xfs", first(Medium::Xfs))];
    named.into_iter().filter_map(|(name, at)| Some((name, at?))).collect()
}

/// Delays writes or flushes of a member's disk, which takes no other time; returns its slow syncs and what was injected.
async fn delayed(stand: &FaultStand, at: usize, flush: bool) -> Result<(Vec<SlowSync>, Vec<Delayed>)> {
    let delays = stand.delays(at)?;
    let from = SystemTime::now();
    delays.set_pace(Pace::default());
    delays.start_log();
    if flush {
        delays.set_syncs(&[DELAY])
    } else {
        delays.set_write(DELAY)
    }
    sleep(STRETCH).await;
    stand.heal()?;
    // What was begun under the delay ends under it.
    sleep(Duration::from_secs(1)).await;
    let log = delays.stop_log();
    Ok((stored(stand, at, from).await?, log))
}

/// Slow syncs beside a neighbour that syncs, on the disk at its own pace.
async fn neighboured(stand: &FaultStand, at: usize) -> Result<Vec<SlowSync>> {
    let from = SystemTime::now();
    let file = scratch(stand.cluster.members[at].disk());
    let act = Act::Write { file, threads: 3, kib: 512, writes: 4, whole: false, direct: false };
    let (neighbour, _began) = stand.act("neighbour", &act, &[]).await?;
    sleep(STRETCH).await;
    drop(neighbour);
    stored(stand, at, from).await
}

/// Mean throttle part over all syncs of a throttled stretch, divided by how much etcd's own mean sync grew.
async fn throttled(stand: &FaultStand, at: usize) -> Result<(f64, String)> {
    let member = &stand.cluster.members[at];
    let first = Gauge::take(stand, at).await;
    sleep(STRETCH).await;
    let second = Gauge::take(stand, at).await;
    let from = SystemTime::now();
    let limit = member.cgroup()?.limit_writes_while(&member.disk().device_number()?, THROTTLE)?;
    sleep(STRETCH).await;
    let third = Gauge::take(stand, at).await;
    let to = SystemTime::now();
    drop(limit);
    let (free, held) = (second.since(&first), third.since(&second));
    let slow = stored(stand, at, from).await?;
    let within = slow.iter().filter(|one| end(one) <= DateTime::<Utc>::from(to));
    let throttle_ns: u64 = within.map(|one| one.parts.throttle_ns).sum();
    let part = seconds(throttle_ns) / held.syncs.max(1.0);
    let rise = held.mean - free.mean;
    ensure!(rise > 0.0, "the throttle did nothing: {free:?} {held:?}");
    let from = format!(
        "{:.0} syncs, etcd's mean {:.1} ms against {:.1} ms, throttle part {:.1} ms",
        held.syncs,
        held.mean * 1e3,
        free.mean * 1e3,
        part * 1e3
    );
    Ok((part / rise, from))
}

/// A member's slow WAL syncs since then, once no more arrive.
async fn stored(stand: &FaultStand, at: usize, from: SystemTime) -> Result<Vec<SlowSync>> {
    let to = SystemTime::now();
    let path = format!(
        "/api/v1/clusters/{}/slow-syncs?member={}&class=wal&from={}&to={}&limit=10000",
        stand.id,
        stand.members[at],
        stamp(from),
        stamp(to)
    );
    let mut told = Vec::new();
    wait::settled("stored slow syncs", STORED.0, STORED.1, async || {
        let mut body = stand.api.get(&path).await?;
        told = serde_json::from_value(body["slow_syncs"].take()).context("field slow_syncs")?;
        Ok(told.len())
    })
    .await?;
    let told = slow_ones(told);
    ensure!(!told.is_empty(), "no WAL sync of member {at} was slow");
    Ok(told)
}

/// Those to look at. What is not explained because evidence has gaps is not explained all the same.
fn slow_ones(mut told: Vec<SlowSync>) -> Vec<SlowSync> {
    told.retain(|one| one.latency_ns >= SLOW_NS);
    told
}

fn end(sync: &SlowSync) -> DateTime<Utc> {
    sync.at + Duration::from_nanos(sync.latency_ns)
}

/// What was found of what was injected.
#[derive(Debug, Default, PartialEq)]
struct Recovery {
    syncs: usize,
    /// Of all of it together.
    ratio: f64,
    /// Of each sync, the middle one.
    median: f64,
}

impl Recovery {
    fn of(slow: &[SlowSync], injected: &[Delayed], flush: bool) -> Self {
        let (mut sums, mut each) = ((0, 0), Vec::new());
        for sync in slow {
            let truth = overlap_ns(sync, injected, flush);
            if truth < INJECTED_NS {
                continue;
            }
            let found = match flush {
                true => sync.parts.flush_ns + sync.journal.flush_ns,
                false => sync.parts.device_ns + sync.journal.device_ns,
            };
            sums = (sums.0 + found, sums.1 + truth);
            each.push(seconds(found) / seconds(truth));
        }
        each.sort_by(f64::total_cmp);
        Self { syncs: each.len(), ratio: seconds(sums.0) / seconds(sums.1), median: quantile(&each, 0.5) }
    }
}

/// How long, within a sync, a write or flush was delayed. The disk works on one at a time.
fn overlap_ns(sync: &SlowSync, injected: &[Delayed], flush: bool) -> u64 {
    let (from, to) = (SystemTime::from(sync.at), SystemTime::from(end(sync)));
    let of = |one: &Delayed| {
        let common = one.to.min(to).duration_since(one.from.max(from)).unwrap_or_default();
        u64::try_from(common.as_nanos()).unwrap_or(u64::MAX)
    };
    injected.iter().filter(|one| one.flush == flush).map(of).sum()
}

/// Of each sync, the share that is unexplained, or laid to a throttle that is not there; sorted.
fn unexplained(slow: &[SlowSync]) -> Vec<f64> {
    let of = |one: &SlowSync| {
        seconds(one.parts.throttle_ns + one.parts.unexplained_ns) / seconds(one.latency_ns.max(1))
    };
    let mut shares: Vec<f64> = slow.iter().map(of).collect();
    shares.sort_by(f64::total_cmp);
    shares
}

/// The quantile of sorted numbers; of none it is no number.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a place among some thousands"
    )]
    let place = ((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(place).copied().unwrap_or(f64::NAN)
}

fn seconds(nanoseconds: u64) -> f64 {
    Duration::from_nanos(nanoseconds).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn moment(ms: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_255_200_000 + ms)
    }

    fn sync(from_ms: u64, latency_ms: u64, device_ms: u64, flush_ms: u64) -> SlowSync {
        SlowSync {
            at: moment(from_ms).into(),
            latency_ns: latency_ms * MS,
            parts: Parts { device_ns: device_ms * MS, flush_ns: flush_ms * MS, ..Parts::default() },
            ..SlowSync::default()
        }
    }

    fn delayed(flush: bool, from_ms: u64, to_ms: u64) -> Delayed {
        Delayed { flush, from: moment(from_ms), to: moment(to_ms) }
    }

    #[test]
    fn only_what_was_injected_within_a_sync_counts() {
        let injected = [delayed(false, 0, 40), delayed(true, 40, 80), delayed(false, 80, 120)];
        assert_eq!(overlap_ns(&sync(10, 90, 0, 0), &injected, false), 50 * MS);
        assert_eq!(overlap_ns(&sync(10, 90, 0, 0), &injected, true), 40 * MS);
        assert_eq!(overlap_ns(&sync(200, 10, 0, 0), &injected, true), 0);
    }

    #[test]
    fn what_is_found_is_compared_with_what_was_injected() {
        let injected = [delayed(false, 0, 40), delayed(false, 100, 140), delayed(false, 200, 240)];
        let slow = [sync(0, 45, 40, 2), sync(100, 45, 30, 2), sync(240, 20, 15, 0)];
        let found = Recovery::of(&slow, &injected, false);
        assert_eq!((found.syncs, found.median), (2, 1.0), "the last one met nothing");
        assert!((found.ratio - 70.0 / 80.0).abs() < 1e-9);
        assert!(Recovery::of(&slow, &injected, true).ratio.is_nan(), "no flush was delayed");
    }

    #[test]
    fn shares_without_evidence_are_of_each_sync() {
        let mut slow = [sync(0, 100, 90, 0), sync(0, 50, 0, 0)];
        slow[0].parts.unexplained_ns = 10 * MS;
        slow[1].parts.throttle_ns = 50 * MS;
        let shares = unexplained(&slow);
        assert!((shares[0] - 0.1).abs() < 1e-9 && shares[1] == 1.0, "{shares:?}");
        assert!(quantile(&[], 0.5).is_nan());
        assert_eq!((quantile(&[1.0, 2.0], 0.5), quantile(&[1.0, 2.0], 0.99)), (2.0, 2.0));
    }

    #[test]
    fn a_sync_whose_evidence_has_gaps_counts_like_any_other() {
        let mut gapped = sync(0, 50, 0, 0);
        gapped.parts.unexplained_ns = 50 * MS;
        gapped.gaps.push("requests_lost".to_owned());
        let slow = slow_ones(vec![sync(0, 9, 0, 0), sync(0, 40, 40, 0), gapped]);
        assert_eq!(unexplained(&slow), [0.0, 1.0]);
    }

    #[test]
    fn both_filesystems_are_measured() {
        for seed in 0..10 {
            let chosen = one_of_each(seed);
            assert_eq!(chosen.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["ext4", "xfs"]);
        }
    }
}
