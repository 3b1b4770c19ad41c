//! `etcdmon-lab faults`: faults injected into a real cluster, and whether the product says what and who it was.
//!
//! Truth is what was injected; the verdict is what the API's diagnoses say, and nothing else. Each class of faults has
//! random runs: what happens in a run follows from a seed, the class and the run's number ([`plan`]). Whether a fault did
//! anything at all is asked of etcd's own histogram and the kernel ([`effect`]); a run without effect says nothing and is made
//! again with another plan.
//!
//! The cluster is kept from run to run. The score may be interrupted: with a file, what is in it is not done again.
//!
//! | module | what |
//! |---|---|
//! | [`class`], [`plan`] | what is injected and what must be said of it |
//! | [`stand`], [`actor`], [`inject`] | the cluster, the processes that do harm, faults put into effect |
//! | [`run`], [`diagnosis`], [`effect`] | one run: what was said, what was felt |
//! | [`score`], [`record`], [`report`] | right or wrong, the file, the tables |
//! | [`recovery`] | what is found of a delay that was injected, and in which part |

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::cgroup::Cgroup;
use crate::tools;
use crate::up::ended_by;

pub mod actor;
pub mod class;
pub mod diagnosis;
pub mod effect;
pub mod inject;
pub mod plan;
pub mod record;
pub mod recovery;
pub mod report;
pub mod run;
pub mod score;
pub mod stand;

use class::{CLASSES, Class, STRETCHES};
use plan::{Fault, Plan, plan};
use record::{Figure, Key, Record, Records, append_figure, append_run};
use report::Report;
use stand::FaultStand;

/// On the command line, beside the classes: what is not a class but figures.
pub const RECOVERY: &str = "recovery";

/// Plans that are tried for a run whose fault does nothing.
const ATTEMPTS: u32 = 3;

/// Between the lines of such plans.
const AGAIN: &str = "\n    again: ";

/// Failures of the lab itself, one after the other, that end the score.
const HOPELESS: u32 = 3;

/// Lines of each log that are shown with such a failure.
const SHOWN_LINES: usize = 20;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Options {
    /// Classes by name, and `recovery`; empty = all.
    pub only: Vec<String>,
    /// Runs of each class.
    pub runs: u32,
    /// Minutes of calm, and of heavy load; 0 = neither.
    pub stretch_minutes: u64,
    /// Where runs are kept; what is in it is not done again.
    pub json: Option<PathBuf>,
    /// What everything random follows from.
    pub seed: u64,
    /// Commit of what is tried.
    pub commit: String,
}

/// Makes all runs that are asked for, and prints the score. Everything started is down when it returns.
///
/// # Errors
/// When a class or figure misses its bar, or the lab itself fails.
pub async fn faults(options: &Options) -> Result<()> {
    let report = tokio::select! {
        report = whole(options) => report?,
        name = ended_by() => bail!("ended by {}; what was done is in the file, if one was given", name?),
    };
    println!("\n{}", report.text);
    ensure!(report.shortfalls.is_empty(), "below the bar:\n  {}", report.shortfalls.join("\n  "));
    println!("every class reaches its bar");
    Ok(())
}

/// Makes what is not in the file yet of all that is asked for, and sums it up.
///
/// # Errors
/// When the lab itself fails again and again.
pub async fn whole(options: &Options) -> Result<Report> {
    let work = Work::of(options)?;
    let records = make(options, &work).await?;
    Ok(report::report(&records, &work.classes, options.runs))
}

/// What there is to do.
#[derive(Debug, PartialEq, Eq)]
struct Work {
    classes: Vec<Class>,
    recovery: bool,
}

impl Work {
    fn of(options: &Options) -> Result<Self> {
        let mut work = Self { classes: Vec::new(), recovery: options.only.is_empty() };
        for name in &options.only {
            if name == RECOVERY {
                work.recovery = true;
            } else {
                work.classes.push(Class::named(name)?);
            }
        }
        if options.only.is_empty() {
            work.classes.extend(CLASSES);
            if options.stretch_minutes > 0 {
                work.classes.extend(STRETCHES);
            }
        }
        work.classes.retain(|class| match cannot(*class) {
            Some(reason) => {
                println!("skipped: {class}: {reason}");
                false
            }
            None => true,
        });
        Ok(work)
    }

    /// Runs in their order, the long ones last.
    fn runs(&self, options: &Options) -> Vec<(Class, u32)> {
        let is_short = |class: &Class| !STRETCHES.contains(class);
        let short: Vec<Class> = self.classes.iter().copied().filter(is_short).collect();
        let long = self.classes.iter().copied().filter(|class| !is_short(class));
        plan::order(options.seed, &short, options.runs)
            .into_iter()
            .chain(long.map(|class| (class, 1)))
            .collect()
    }
}

/// Why a class can't be injected on this machine.
fn cannot(class: Class) -> Option<&'static str> {
    let limits = matches!(class, Class::IoThrottle | Class::CpuQuota | Class::Pairs);
    (limits && !Cgroup::can_limit()).then_some("needs the CPU and block I/O controllers of cgroup version 1")
}

/// Makes the runs that are not in the file yet.
///
/// # Errors
/// When the lab itself fails again and again.
pub async fn score(options: &Options) -> Result<Records> {
    make(options, &Work::of(options)?).await
}

async fn make(options: &Options, work: &Work) -> Result<Records> {
    ensure!(tools::is_root(), "needs root for probes, disks and cgroups");
    let mut records = match &options.json {
        Some(path) => Records::load(path, &options.commit, options.seed)?,
        None => Records::default(),
    };
    let done = records.done();
    let mut queue: VecDeque<(Class, u32)> =
        work.runs(options).into_iter().filter(|run| !done.contains(run)).collect();
    let total = queue.len();
    println!(
        "{total} runs to make, {} made before; commit {}, --seed {}",
        done.len(),
        options.commit,
        options.seed
    );
    let recovery = work.recovery && !is_measured(&records);
    if total == 0 && !recovery {
        return Ok(records);
    }
    let (began, mut failures) = (Instant::now(), 0);
    let mut stand = FaultStand::start(options.seed).await.context("start the stand")?;
    println!("three members, three agents, an aggregator: up in {:.0} s", began.elapsed().as_secs_f64());
    let began = Instant::now();
    while let Some((class, number)) = queue.pop_front() {
        let outcome = one(&mut stand, options, class, number, &mut records).await;
        let broken = match outcome {
            Ok((line, broken)) => {
                failures = 0;
                let made = total - queue.len();
                println!("[{made}/{total}, {:.0} s] {class} {number}: {line}", began.elapsed().as_secs_f64());
                broken
            }
            Err(error) => {
                failures += 1;
                ensure!(failures < HOPELESS, "{failures} failures of the lab one after the other: {error:#}");
                queue.push_front((class, number));
                Some(error)
            }
        };
        if let Some(error) = broken {
            println!("FAILED {class} {number}: {error:#}\n{}", stand.place.log_tails(SHOWN_LINES));
            drop(stand);
            stand = FaultStand::start(options.seed).await.context("start a new stand")?;
        }
    }
    if recovery {
        measure(&stand, options, &mut records).await?;
    }
    Ok(records)
}

/// A run, and again with other plans as long as its fault does nothing. Returns its line, and why the stand is of no more
/// use, if it is not.
///
/// # Errors
/// When a run could not be made.
async fn one(
    stand: &mut FaultStand,
    options: &Options,
    class: Class,
    number: u32,
    records: &mut Records,
) -> Result<(String, Option<anyhow::Error>)> {
    let mut lines = Vec::new();
    let tried = records.tried(class, number);
    for attempt in tried + 1..=tried + ATTEMPTS {
        let plan = lasting(options, plan(options.seed, class, number, attempt));
        let key = Key { commit: options.commit.clone(), seed: options.seed, class, number };
        let before = records.runs.last().map(|run| run.expected.clone()).unwrap_or_default();
        let made = run::run(stand, key.clone(), &plan, &before).await.with_context(|| plan.to_string());
        let ended = stand.check_healthy().err();
        let record = outcome(made, ended.as_ref(), |why| run::ended(stand, key, &plan, why))?;
        let said = run::words(&record, &record.judgement());
        lines.push(format!("{}; {}: {said}", record.plan, record.effect));
        let felt = record.felt;
        keep(options, records, record)?;
        if ended.is_some() {
            return Ok((lines.join(AGAIN), ended));
        }
        if let Err(error) = repair(stand, &plan).await {
            return Ok((lines.join(AGAIN), Some(error)));
        }
        if felt {
            break;
        }
    }
    Ok((lines.join(AGAIN), None))
}

/// The record of a run: that the product ended, if it did, whatever else was said or failed. Made again until the product lives
/// through it, a run would say nothing.
fn outcome(
    made: Result<Record>,
    ended: Option<&anyhow::Error>,
    record: impl FnOnce(&anyhow::Error) -> Record,
) -> Result<Record> {
    ended.map_or(made, |why| Ok(record(why)))
}

/// Whether all figures were taken, not only those before it was interrupted.
const fn is_measured(records: &Records) -> bool {
    records.figures.len() >= recovery::FIGURES
}

fn keep(options: &Options, records: &mut Records, record: Record) -> Result<()> {
    if let Some(path) = &options.json {
        append_run(path, &record)?;
    }
    records.runs.push(record);
    Ok(())
}

fn lasting(options: &Options, plan: Plan) -> Plan {
    match STRETCHES.contains(&plan.class) {
        true => plan.lasting(Duration::from_secs(60 * options.stretch_minutes.max(1))),
        false => plan,
    }
}

/// A disk that gave errors is mounted anew, and whoever died is started again; the runs after it begin in calm.
async fn repair(stand: &mut FaultStand, plan: &Plan) -> Result<()> {
    let errors = plan.faults.iter().filter(|planned| matches!(planned.fault, Fault::Errors { .. }));
    let hit: Vec<usize> = errors.map(|planned| planned.member).collect();
    if stand.repair(&hit).await.context("repair")? > 0 {
        stand.wait_quiet().await?;
    }
    Ok(())
}

async fn measure(stand: &FaultStand, options: &Options, records: &mut Records) -> Result<()> {
    stand.wait_quiet().await?;
    let mut tell = |figure: Figure| {
        let verdict = if figure.is_reached() { "" } else { ", MISSED" };
        println!(
            "{} = {:.3}, bar {} to {}{verdict}: {}",
            figure.figure, figure.value, figure.least, figure.most, figure.from
        );
        if let Some(path) = &options.json {
            append_figure(path, &figure)?;
        }
        records.figures.retain(|known| known.figure != figure.figure);
        records.figures.push(figure);
        Ok(())
    };
    recovery::measure(stand, options.seed, &options.commit, &mut tell).await.context("recovery")?;
    ensure!(is_measured(records), "{} figures instead of {}", records.figures.len(), recovery::FIGURES);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::record::tests::{figure, record};
    use super::*;

    fn options(only: &[&str]) -> Options {
        Options {
            only: only.iter().map(|name| (*name).to_owned()).collect(),
            runs: 2,
            stretch_minutes: 30,
            json: None,
            seed: 1,
            commit: "abc".to_owned(),
        }
    }

    #[test]
    fn what_is_named_is_done_and_all_of_it_without_a_name() {
        let some = Work::of(&options(&["stopped", "recovery"])).unwrap();
        assert_eq!(some, Work { classes: vec![Class::Stopped], recovery: true });
        assert!(!Work::of(&options(&["calm"])).unwrap().recovery);
        assert!(Work::of(&options(&["nonsense"])).is_err());
        let all = Work::of(&options(&[])).unwrap();
        assert!(
            all.recovery
                && all.classes.contains(&Class::Stopped)
                && all.classes.contains(&Class::HeavyStretch)
        );
        let without = Options { stretch_minutes: 0, ..options(&[]) };
        assert!(!Work::of(&without).unwrap().classes.contains(&Class::HeavyStretch));
    }

    #[test]
    fn figures_of_a_measurement_that_was_interrupted_are_not_all() {
        let mut records = Records { figures: vec![figure("recovered", 1.0)], ..Records::default() };
        assert!(!is_measured(&records));
        records.figures.extend((1..recovery::FIGURES).map(|n| figure(&n.to_string(), 1.0)));
        assert!(is_measured(&records));
    }

    #[test]
    fn a_run_that_the_product_did_not_live_through_is_kept_as_that() {
        let (ended, away) = (anyhow::anyhow!("agent-1 panicked"), || Err(anyhow::anyhow!("the API is away")));
        let wrong = |_: &anyhow::Error| record(Class::Stopped, 9);
        let right = || Ok(record(Class::Stopped, 1));
        assert_eq!(outcome(right(), None, wrong).unwrap().key.number, 1);
        assert_eq!(outcome(right(), Some(&ended), wrong).unwrap().key.number, 9);
        assert_eq!(outcome(away(), Some(&ended), wrong).unwrap().key.number, 9);
        assert!(outcome(away(), None, wrong).is_err(), "the lab's own failure says nothing");
    }

    #[test]
    fn long_stretches_come_once_and_last() {
        let work = Work { classes: vec![Class::CalmStretch, Class::Calm, Class::Stopped], recovery: false };
        let runs = work.runs(&options(&[]));
        assert_eq!(runs.len(), 5);
        assert_eq!(runs[4], (Class::CalmStretch, 1));
        let long = lasting(&options(&[]), plan(1, Class::CalmStretch, 1, 1));
        assert_eq!(long.hold, Duration::from_secs(1_800));
    }
}
