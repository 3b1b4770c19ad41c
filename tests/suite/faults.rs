//! Faults: what was injected into a real cluster is named, with its culprit, and nothing else is.
//!
//! The gate tries four classes once each; one that goes wrong has two more runs, both of which must be right, void is not; one
//! whose first runs are void, since others kept the machine busy, is told as skipped. With
//! `ETCD_MONITOR_FULL=1` it is the whole score, hours. `ETCD_MONITOR_SEED` repeats a run.

use anyhow::{Result, ensure};
use etcdmon_tests::faults::class::{Class, GATE};
use etcdmon_tests::faults::record::{Record, Records};
use etcdmon_tests::faults::{self, Options, run as one_run, score};
use etcdmon_tests::suite::{full, run, skip_without_root};

/// Runs of each class in the full tier.
const RUNS: u32 = 20;

/// Minutes of calm, and of heavy load, there.
const STRETCH_MINUTES: u64 = 30;

fn seed() -> u64 {
    std::env::var("ETCD_MONITOR_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random)
}

/// S3, S6: the cause and the culprit of injected faults; nothing is said in calm.
#[test]
fn injected_faults_are_named_with_their_culprits_and_calm_is_left_alone() {
    if skip_without_root("probes, disks and cgroups") {
        return;
    }
    run(async |place| {
        let options = Options {
            only: Vec::new(),
            runs: RUNS,
            stretch_minutes: STRETCH_MINUTES,
            json: Some(place.path().join("faults.jsonl")),
            seed: seed(),
            commit: "this".to_owned(),
        };
        println!("ETCD_MONITOR_SEED={}", options.seed);
        if full() {
            return whole(&options).await;
        }
        let only = |classes: &[Class], runs| Options {
            only: classes.iter().map(|class| class.name().to_owned()).collect(),
            runs,
            ..options.clone()
        };
        let first = score(&only(&GATE, 1)).await?;
        for class in GATE {
            if felt(&first, class).next().is_none() {
                println!("skipped: {class}: others kept the machine busy, or the fault was not felt");
            }
        }
        let again: Vec<Class> = GATE.into_iter().filter(|class| wrong(&first, *class) > 0).collect();
        if again.is_empty() {
            return Ok(());
        }
        println!("again: {again:?}");
        let records = score(&only(&again, 3)).await?;
        for class in again {
            let (wrong, felt) = (wrong(&records, class), felt(&records, class).count());
            ensure!(wrong <= 1 && felt >= 3, "{class}: {wrong} wrong of {felt} runs that say anything");
        }
        Ok(())
    });
}

/// Runs of a class that say anything.
fn felt(records: &Records, class: Class) -> impl Iterator<Item = &Record> {
    records.runs.iter().filter(move |run| run.key.class == class && run.felt)
}

/// Runs of a class that were not right in every respect but time.
fn wrong(records: &Records, class: Class) -> usize {
    let wrong = felt(records, class).filter(|run| !run.judgement().is_right());
    wrong.inspect(|run| println!("{class}: {}", one_run::words(run, &run.judgement()))).count()
}

async fn whole(options: &Options) -> Result<()> {
    let report = faults::whole(options).await?;
    println!("{}", report.text);
    ensure!(report.shortfalls.is_empty(), "below the bar: {}", report.shortfalls.join("; "));
    Ok(())
}
