//! One run: calm, a fault, what is said of it, calm again.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use chrono::Utc;
use tokio::time::sleep;

use super::class::Class;
use super::diagnosis::Watch;
use super::effect::{self, Effect, Gauge, Host, OTHERS};
use super::inject::{Injected, cause, hit, inject};
use super::plan::{Plan, Planned};
use super::record::{Key, Record};
use super::score::{Expected, Found, Judgement, Wanted};
use super::stand::{FaultStand, RATE};

/// Between two looks at the API. A verdict's time is known to within this.
const LOOK_EVERY: Duration = Duration::from_millis(150);

/// The same over minutes, in which nothing should come.
const LOOK_SELDOM: Duration = Duration::from_secs(1);

/// After a fault, for verdicts that are late. Its own verdict is closed only after 10 s of calm: the next run does not wait
/// for that unless it injects the same into the same member.
const AFTERWARDS: Duration = Duration::from_millis(3_000);

/// For a verdict of the same member and cause to be closed, and all of them where nothing is to be said.
const CLOSED_LIMIT: Duration = Duration::from_secs(30);

/// The API may be away for so long.
const AWAY_LIMIT: Duration = Duration::from_secs(20);

/// Makes a run. `before` is what the run before injected.
///
/// # Errors
/// When something can't be injected, or the product is not there any more.
pub async fn run(stand: &FaultStand, key: Key, plan: &Plan, before: &[Expected]) -> Result<Record> {
    let at = Utc::now();
    wait_closed(stand, plan).await?;
    let (began, mut words) = (Instant::now(), plan.to_string());
    for planned in plan.faults.iter().filter(|planned| planned.fault.is_of_one_member()) {
        words.push_str(&format!("; {}", stand.describe(planned.member).await));
    }
    let mut watch = Watch::start(&stand.api, &stand.id).await?;
    if plan.class.is_healthy() {
        // Nothing is wrong, and what went before is long over.
        watch.find_open();
    }
    let busy = Usage::start(stand);
    stand.settle(plan.settle).await;
    let cores = busy.cores(stand);
    let gauges = gauges(stand, plan).await;
    let host = Host::take();
    let puts = stand.load.succeeded();

    let (injected, held) = hold(stand, plan, &cores, &mut watch).await?;
    let puts = stand.load.succeeded() - puts;
    let others = Host::take().others_since(&host);
    let effects = effects(stand, plan, &gauges).await;
    let expected: Vec<Expected> = injected.iter().filter_map(|one| one.expected.clone()).collect();
    drop(injected);
    stand.heal()?;
    let healed = Instant::now();
    while healed.elapsed() < AFTERWARDS {
        // A look that fails is made up for by the last one.
        let _later = watch.look().await;
        sleep(LOOK_EVERY).await;
    }
    look_surely(&mut watch).await?;

    let felt = plan.faults.iter().zip(&effects).all(|(one, effect)| effect.is_felt(one.fault, held));
    let effect: Vec<String> =
        plan.faults.iter().zip(&effects).map(|(one, effect)| effect.words(one.fault)).collect();
    let effect = format!(
        "{}; {puts} puts besides, others took {:.0} % of the CPUs",
        effect.join(" + "),
        others * 100.0
    );
    Ok(Record {
        key,
        attempt: plan.attempt,
        at,
        seconds: began.elapsed().as_secs_f64(),
        plan: words,
        effect,
        felt: felt && others <= OTHERS && is_loaded(plan.class, puts, held),
        expected,
        before: before.to_vec(),
        found: watch.found(),
    })
}

/// A run that something of the product did not live through. Whatever it said is wrong: nothing is kept of it.
pub fn ended(stand: &FaultStand, key: Key, plan: &Plan, why: &anyhow::Error) -> Record {
    let at = Utc::now();
    let expected = plan.faults.iter().filter_map(|planned| {
        let (cause, members) = (cause(planned.fault)?, hit(stand, planned));
        Some(Expected { cause, members, culprit: Wanted::Nobody, onset: at })
    });
    Record {
        key,
        attempt: plan.attempt,
        at,
        seconds: 0.0,
        plan: plan.to_string(),
        effect: "the product ended".to_owned(),
        felt: true,
        expected: expected.collect(),
        before: Vec::new(),
        found: vec![Found::ended(at, format!("{why:#}"))],
    }
}

/// Whether the usual load was there; where nothing is wrong it must be, since nothing is said of a cluster that does nothing.
fn is_loaded(class: Class, puts: u64, seconds: f64) -> bool {
    !class.is_healthy() || puts as f64 >= f64::from(RATE) * seconds / 2.0
}

/// Injects what is planned at its time and looks at what is said, until the plan's time is over. Returns the faults, which
/// go on, and for how many seconds they have.
async fn hold(
    stand: &FaultStand,
    plan: &Plan,
    cores: &[f64],
    watch: &mut Watch,
) -> Result<(Vec<Injected>, f64)> {
    let every = if plan.hold > Duration::from_secs(60) { LOOK_SELDOM } else { LOOK_EVERY };
    let begin = Instant::now();
    let (mut injected, mut seen_at) = (Vec::new(), Instant::now());
    let mut coming = plan.faults.iter().peekable();
    while begin.elapsed() < plan.hold {
        while let Some(planned) = coming.next_if(|planned| planned.after <= begin.elapsed()) {
            injected
                .push(inject(stand, planned, cores[planned.member]).await.with_context(|| plan.to_string())?);
        }
        match watch.look().await {
            Ok(()) => seen_at = Instant::now(),
            Err(error) if seen_at.elapsed() > AWAY_LIMIT => return Err(error),
            // Verdicts are later by as much as the API is away.
            Err(_) => {}
        }
        sleep(every).await;
    }
    Ok((injected, begin.elapsed().as_secs_f64()))
}

/// A verdict that is still open would take in the next incident of its member and cause.
async fn wait_closed(stand: &FaultStand, plan: &Plan) -> Result<()> {
    let mut watch = Watch::start(&stand.api, &stand.id).await?;
    let is_open = |watch: &Watch| match plan.class.is_healthy() {
        true => watch.open() > 0,
        false => plan.faults.iter().any(|planned| {
            let same =
                |member: &String| cause(planned.fault).is_some_and(|c| watch.is_open(member, c.name()));
            hit(stand, planned).iter().any(same)
        }),
    };
    let begin = Instant::now();
    // One that is never closed makes this run wrong, as it should.
    while is_open(&watch) && begin.elapsed() < CLOSED_LIMIT {
        sleep(LOOK_EVERY).await;
        watch.look().await?;
    }
    Ok(())
}

async fn look_surely(watch: &mut Watch) -> Result<()> {
    crate::wait::until("the API to answer", AWAY_LIMIT, async || watch.look().await.map(Some)).await
}

/// Of each fault's member; of what hits all, the first.
async fn gauges(stand: &FaultStand, plan: &Plan) -> Vec<Gauge> {
    let mut gauges = Vec::new();
    for planned in &plan.faults {
        gauges.push(Gauge::take(stand, planned.member).await);
    }
    gauges
}

async fn effects(stand: &FaultStand, plan: &Plan, before: &[Gauge]) -> Vec<Effect> {
    let mut effects = Vec::new();
    for (Planned { member, .. }, before) in plan.faults.iter().zip(before) {
        effects.push(Gauge::take(stand, *member).await.since(before));
    }
    effects
}

/// How much CPU each member uses.
struct Usage {
    begin: Instant,
    on: Vec<f64>,
}

impl Usage {
    fn start(stand: &FaultStand) -> Self {
        Self { begin: Instant::now(), on: used(stand) }
    }

    fn cores(&self, stand: &FaultStand) -> Vec<f64> {
        let seconds = self.begin.elapsed().as_secs_f64();
        used(stand).iter().zip(&self.on).map(|(now, then)| (now - then) / seconds).collect()
    }
}

fn used(stand: &FaultStand) -> Vec<f64> {
    let of = |member: &crate::etcd::Member| member.pid().and_then(effect::cpu).unwrap_or_default().on;
    stand.cluster.members.iter().map(of).collect()
}

/// A run's outcome in a line.
pub fn words(record: &Record, judgement: &Judgement) -> String {
    let mut text = match (record.felt, judgement.is_right(), judgement.seconds) {
        (false, ..) => "void".to_owned(),
        (true, true, Some(seconds)) => format!("right after {seconds:.1} s"),
        (true, true, None) => "right".to_owned(),
        (true, false, _) => "WRONG".to_owned(),
    };
    if !judgement.is_right() {
        for wanted in &record.expected {
            text.push_str(&format!(
                "; wanted {} of {:?} by {:?}",
                wanted.cause, wanted.members, wanted.culprit
            ));
        }
        if record.found.is_empty() {
            text.push_str("; nothing was said");
        }
        for found in &record.found {
            let who = found.culprit.as_ref().map_or_else(
                || "nobody".to_owned(),
                |who| format!("{} {} {}", who.kind, who.process_id, who.name),
            );
            text.push_str(&format!("; said {} of {}, {who}: {}", found.cause, found.member, found.summary));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::record;
    use super::*;

    #[test]
    fn calm_without_the_usual_load_is_no_calm() {
        assert!(is_loaded(Class::Calm, 600, 6.0) && !is_loaded(Class::Calm, 200, 6.0));
        assert!(!is_loaded(Class::HeavyStretch, 0, 1_800.0));
        assert!(is_loaded(Class::Stopped, 0, 6.0), "a fault may well hold it up");
    }

    #[test]
    fn a_line_says_what_is_wrong() {
        let mut run = record(Class::Calm, 1);
        assert_eq!(words(&run, &run.judgement()), "right");
        run.found = serde_json::from_value(serde_json::json!([{
            "member": "a1", "cause": "own_io", "seen_at": run.at, "named_at": run.at, "opened_at": run.at,
            "onset_at": run.at, "culprit": null, "summary": "Why.",
        }]))
        .unwrap();
        assert_eq!(words(&run, &run.judgement()), "WRONG; said own_io of a1, nobody: Why.");
        run.felt = false;
        assert!(words(&run, &run.judgement()).starts_with("void"));
    }
}
