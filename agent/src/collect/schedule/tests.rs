use super::*;
use crate::fact::{Event, Fact};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn one_dear_collection_is_forgiven_and_three_in_a_row_are_not() {
    let mut pace = Pace::new(SECOND);
    let dear = pace.budget() * 2;
    assert_eq!((pace.note(dear), pace.note(dear), pace.note(Duration::ZERO)), (None, None, None));
    assert_eq!((pace.note(dear), pace.note(dear), pace.note(dear)), (None, None, Some(Change::Slowed)));
    assert_eq!(pace.period(), 2 * SECOND);
    assert_eq!(pace.budget(), dear, "twice the time, twice the budget");
}

#[test]
fn a_collector_that_stays_dear_is_slowed_to_a_limit_and_comes_back_step_by_step() {
    let mut pace = Pace::new(SECOND);
    for _ in 0..1_000 {
        pace.note(Duration::from_secs(1_000));
    }
    assert_eq!(pace.period(), 64 * SECOND);
    let changes: Vec<Change> = (0..1_000).filter_map(|_| pace.note(Duration::ZERO)).collect();
    assert_eq!(changes.len(), 6);
    assert_eq!((changes[4], changes[5]), (Change::Quickened, Change::Restored));
    assert_eq!(pace.period(), SECOND);
}

/// Burns CPU, or yields an event.
struct Fake {
    burn: Duration,
    fail: bool,
}

impl Collector for Fake {
    fn name(&self) -> &'static str {
        "fake"
    }

    fn period(&self) -> Duration {
        Duration::from_millis(10)
    }

    async fn collect(&mut self, now: Reading) -> Result<Vec<Note>, CollectError> {
        let before = thread_cpu();
        while thread_cpu() - before < self.burn {
            std::hint::spin_loop();
        }
        if self.fail {
            return Err(CollectError::Form { path: "/none".to_owned() });
        }
        let (kind, details) = ("fake", serde_json::Value::Null);
        Ok(vec![Note::Facts(vec![Fact::Event(Event { process: None, mono_ns: now.mono_ns, kind, details })])])
    }
}

async fn notes_of(fake: Fake, count: usize) -> (Vec<Note>, String) {
    let (sender, mut receiver) = mpsc::channel(64);
    let telemetry = Arc::new(Telemetry::default());
    let cancel = CancellationToken::new();
    let running = tokio::spawn(run(fake, sender, Arc::clone(&telemetry), cancel.clone()));
    let mut notes = Vec::new();
    for _ in 0..count {
        notes.push(receiver.recv().await.expect("the collector runs"));
    }
    let page = telemetry.page(&telemetry.registry());
    cancel.cancel();
    running.await.expect("no panic");
    let after = telemetry.page(&telemetry.registry());
    let slowed =
        |page: &str| page.lines().any(|line| line == r#"etcdmon_agent_collect_slowed{collector="fake"} 1"#);
    assert!(!slowed(&after), "a collector that is no more is not slowed: {after}");
    (notes, page)
}

#[tokio::test]
async fn a_collector_beyond_its_budget_slows_down_and_says_so() {
    let (notes, page) = notes_of(Fake { burn: Duration::from_millis(4), fail: false }, 4).await;
    let Note::Degraded(degradation) = &notes[3] else { panic!("{notes:?}") };
    assert_eq!(degradation.capability, "fake");
    assert!(degradation.reason.contains("every 0.02 s only"), "{}", degradation.reason);
    assert!(page.contains(r#"etcdmon_agent_collect_slowed{collector="fake"} 1"#), "{page}");
    assert!(page.contains(r#"etcdmon_agent_collections_total{collector="fake",outcome="ok"}"#), "{page}");
}

#[tokio::test]
async fn collections_that_fail_are_counted() {
    let (sender, mut receiver) = mpsc::channel(64);
    let telemetry = Arc::new(Telemetry::default());
    let cancel = CancellationToken::new();
    let fake = Fake { burn: Duration::ZERO, fail: true };
    let running = tokio::spawn(run(fake, sender, Arc::clone(&telemetry), cancel.clone()));
    let wanted = r#"etcdmon_agent_collections_total{collector="fake",outcome="failed"}"#;
    while !telemetry.page(&telemetry.registry()).contains(wanted) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    cancel.cancel();
    running.await.expect("no panic");
    assert!(receiver.recv().await.is_none(), "nothing was yielded");
}

#[test]
fn what_a_member_does_not_answer_is_a_failed_collection() {
    let id = crate::discover::ProcessId { boot_id: [0; 16], pid: 1, start_ticks: 1 };
    let unanswered = Note::Scraped { process: id, outcome: Err("no".to_owned()), own_wal_syncs: None };
    assert_eq!(judge(&Ok(vec![unanswered]), Duration::ZERO), Outcome::Failed);
    assert_eq!(judge(&Ok(Vec::new()), 2 * LATE_AFTER), Outcome::Late);
    assert_eq!(judge(&Ok(Vec::new()), Duration::ZERO), Outcome::Ok);
}

#[test]
fn a_source_that_fails_is_asked_less_often_within_bounds() {
    let second = Duration::from_secs(1);
    let asked = [0, 2, 3, 7, 8, 1_000].map(|failures| periods_between(failures, second));
    assert_eq!(asked, [1, 1, 2, 2, 4, 4]);
    assert_eq!(periods_between(1_000, Duration::from_secs(4)), 2, "at most ten seconds");
    assert_eq!(periods_between(1_000, Duration::from_secs(300)), 1);
}
