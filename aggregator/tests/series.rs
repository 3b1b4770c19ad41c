//! History on a real engine: percentiles against exact ones at every resolution, growth of counters through raw rows and
//! rollups, gaps, who else used the disks (M1–M6, H7).
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

#[path = "process/agent.rs"]
#[expect(dead_code, reason = "every test program uses a part of it")]
mod agent;
#[path = "series/exact.rs"]
mod exact;
#[path = "process/program.rs"]
#[expect(dead_code, reason = "every test program uses a part of it")]
mod program;
#[path = "series/rows.rs"]
mod rows;
#[path = "store/support.rs"]
mod support;

use std::time::Duration;

use agent::{Agent, Member};
use chrono::{DateTime, Utc};
use etcdmon_aggregator::query::{
    Apart, Ask, Function, History, MetricScope, OthersScope, Plan, Query, Question, Resolution, Series,
    SyncScope, TimeRange,
};
use etcdmon_aggregator::rollup::{Options, Roller};
use etcdmon_aggregator::store::{Client, Retention};
use program::Program;
use rows::{Rows, cluster};
use serde_json::Value;
use support::{engine, eventually, number, store};

/// 2026-11-21 08:00 UTC: all rows come after it, and all questions are asked four hours and ten minutes later.
const BEGIN: i64 = 1_795_248_000;
const NOW: i64 = BEGIN + 4 * 3_600 + 600;

fn at(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(second, 0).unwrap()
}

/// A store with these rows, and rollups made of them.
async fn stored(client: &Client, rows: &Rows) -> Query {
    let (store, _stop) = store(client);
    eventually("the schema is there", async || store.is_ready()).await;
    rows.insert(client).await;
    let options = Options { gentle: false, ..Options::new(Duration::from_secs(2), Retention::default()) };
    let mut roller = Roller::new(client.clone(), store.frontier(), options);
    eventually("rollups are made", async || {
        while roller.walk(at(NOW)).await.unwrap() {}
        number(client, "SELECT count() FROM rollup_progress").await > 0
    })
    .await;
    Query::new(client.clone())
}

fn plan(from: i64, to: i64, step: i64) -> Plan {
    let range = TimeRange { from: at(from), to: at(to) };
    Plan::new(&Ask { range, step_seconds: Some(step), max_points: 1 }, &Retention::default(), at(NOW))
        .unwrap()
}

async fn ask(query: &Query, question: &Question, plan: &Plan) -> History {
    query.history(cluster(), question, plan, &[]).await.unwrap()
}

fn metrics(names: &[&str], function: Function) -> Question {
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    Question::Metrics(MetricScope { names, function, ..MetricScope::default() })
}

fn total(values: &[f64]) -> f64 {
    values.iter().filter(|value| !value.is_nan()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn merged_percentiles_are_exact_within_five_percent_at_every_resolution() {
    let Some(engine) = engine().await else { return };
    let recorded = exact::Recorded::make(BEGIN, 3 * 3_600);
    let query = stored(&engine.client("etcdmon"), &recorded.rows()).await;
    let (from, to) = (BEGIN + 3_600, BEGIN + 3 * 3_600);
    let mut worst = 0.0f64;
    for (from, step, resolution) in [
        (from, 1, Resolution::Raw),
        (from, 60, Resolution::Raw),
        (BEGIN, 10, Resolution::TenSeconds),
        (BEGIN, 90, Resolution::TenSeconds),
        (BEGIN, 60, Resolution::Minute),
        (BEGIN, 3_600, Resolution::Hour),
    ] {
        // Half an hour of seconds is enough.
        let to = if step == 1 { from + 1_800 } else { to };
        let plan = plan(from, to, step);
        assert_eq!((plan.resolution, plan.step), (resolution, step));
        for apart in [Apart::default(), Apart { members: false, classes: true }] {
            let question = Question::Latency(SyncScope { apart, ..SyncScope::default() });
            let history = ask(&query, &question, &plan).await;
            assert_eq!(history.series.len(), if apart.members { 4 } else { 2 });
            for series in &history.series {
                worst = worst.max(recorded.compare(&plan, series));
            }
        }
    }
    println!("percentiles are at most {:.2} % off", worst * 100.0);
    assert!(worst > 0.0 && worst <= 0.05, "{worst}");
    engine.supervisor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn growth_is_the_same_from_raw_rows_and_from_rollups_and_gaps_stay_gaps() {
    let Some(engine) = engine().await else { return };
    let mut rows = Rows::default();
    // Ten a second, sent every second; begins anew after two hours and twenty-two seconds.
    for second in 0..4 * 3_600 {
        let at = BEGIN + second;
        let value = if second < 7_222 { 1_000 + second * 10 } else { (second - 7_222) * 10 };
        rows.metric(1, "c_total", "{}", "counter", at, value as f64);
        // What only grows and is no counter by its type; and its follower, three behind.
        rows.metric(1, "etcd_server_proposals_committed_total", "{}", "gauge", at, (second * 5) as f64);
        rows.metric(1, "etcd_server_proposals_applied_total", "{}", "gauge", at, (second * 5 - 3) as f64);
    }
    // Unchanged but for one moment: sent again every thirty seconds, and not at all while the agent was down.
    let down = (BEGIN + 3_600, BEGIN + 3_600 + 600);
    for second in (0..4 * 3_600).step_by(30).chain([1_234]) {
        let at = BEGIN + second;
        if at < down.0 || at >= down.1 {
            let value = if second < 1_234 { 7.0 } else { 9.0 };
            rows.metric(1, "sparse", "{}", "gauge", at, value);
            rows.metric(1, "sparse_total", "{}", "counter", at, value);
        }
    }
    rows.blind(1, down.0, down.1);
    let query = stored(&engine.client("etcdmon"), &rows).await;
    let counters = metrics(&["c_total", "sparse_total"], Function::Auto);
    let whole = plan(BEGIN, BEGIN + 4 * 3_600, 60);
    assert_eq!(whole.resolution, Resolution::Minute);
    let rolled = ask(&query, &counters, &whole).await;
    let [c, sparse] = &rolled.series[..] else { panic!("{:?}", rolled.series) };
    // The reset loses what was counted between the last sample before it and the reset itself: nothing here but one second.
    assert_eq!(total(c.column("increase").unwrap()), (7_221 * 10 + (4 * 3_600 - 7_223) * 10) as f64);
    let rates = c.column("per_second").unwrap();
    assert!(rates[1..119].iter().all(|rate| (rate - 10.0).abs() < 1e-9), "{:?}", &rates[..10]);
    assert_eq!(total(sparse.column("increase").unwrap()), 2.0);
    // Nothing is known of the ten minutes; they are no zeros.
    let known = sparse.column("per_second").unwrap();
    assert!(known[61..69].iter().all(|value| value.is_nan()), "{:?}", &known[58..72]);
    assert!(sparse.gaps.iter().any(|gap| !gap.partial && gap.reason == "agent_down"), "{:?}", sparse.gaps);
    for (from, hours) in [(BEGIN, 2), (BEGIN + 2 * 3_600, 2)] {
        let raw = ask(&query, &counters, &plan(from, from + hours * 3_600, 60)).await;
        assert_eq!(raw.plan.resolution, Resolution::Raw);
        let first = usize::try_from((from - BEGIN) / 60).unwrap();
        for (raw, rolled) in raw.series.iter().zip(&rolled.series) {
            same(raw, rolled, first, "increase");
            same(raw, rolled, first, "per_second");
        }
    }
    let hours = ask(&query, &counters, &plan(BEGIN, BEGIN + 4 * 3_600, 3_600)).await;
    assert_eq!(hours.plan.resolution, Resolution::Hour);
    assert_eq!(hours.series[0].column("increase").unwrap()[1], 36_000.0);

    // A value holds between its samples, in steps that have none.
    let held =
        ask(&query, &metrics(&["sparse"], Function::Auto), &plan(BEGIN + 1_200, BEGIN + 1_260, 1)).await;
    let last = held.series[0].column("last").unwrap();
    assert_eq!((last[0], last[33], last[34], last[59]), (7.0, 7.0, 9.0, 9.0));

    let raft = Question::Raft { members: Vec::new() };
    for step in [15, 60, 3_600] {
        let from = if step == 15 { BEGIN + 3 * 3_600 } else { BEGIN };
        let raft = ask(&query, &raft, &plan(from, BEGIN + 4 * 3_600, step)).await;
        let member = &raft.series[0];
        assert_eq!(member.column("apply_lag").unwrap()[1], 3.0, "step {step}");
        let rate = member.column("committed_per_second").unwrap()[1];
        assert!((rate - 5.0).abs() < 1e-9, "step {step}: {rate}");
        assert!(member.column("pending").unwrap()[1].is_nan(), "it was never sent");
    }
    engine.supervisor.stop().await;
}

/// A raw answer has the values of the answer from rollups, `first` steps into it.
fn same(raw: &Series, rolled: &Series, first: usize, column: &str) {
    let (raw, rolled) = (raw.column(column).unwrap(), &rolled.column(column).unwrap()[first..]);
    for (step, (a, b)) in raw.iter().zip(rolled).enumerate() {
        let equal = (a.is_nan() && b.is_nan()) || (a - b).abs() < 1e-6;
        assert!(equal, "{column}, step {step}: raw {a}, rollup {b}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_saw_is_no_zero_and_culprits_are_merged_across_restarts() {
    let Some(engine) = engine().await else { return };
    let mut rows = Rows::default();
    // A sync a minute; the ledger says that somebody looked in the first hour, but for five minutes.
    for minute in (0..60).filter(|minute| !(20..25).contains(minute)) {
        let at = BEGIN + minute * 60;
        rows.produced(1, at);
        if minute % 2 == 0 {
            rows.syncs(1, "wal", at, &[(200, 1)]);
        }
    }
    rows.syncs(1, "wal", BEGIN + 7_100, &[(200, 1)]);
    rows.blind(1, BEGIN + 20 * 60, BEGIN + 25 * 60);
    for (at, process_id, comm, wait_ns) in
        [(100, 5, "rsync", 30), (160, 6, "rsync", 20), (100, 7, "quiet", 1), (700, 8, "other", 10)]
    {
        rows.autopsy(1, BEGIN + at, process_id, comm, wait_ns);
    }
    let query = stored(&engine.client("etcdmon"), &rows).await;
    let syncs = Question::Syncs(SyncScope::default());
    let history = ask(&query, &syncs, &plan(BEGIN, BEGIN + 7_200, 60)).await;
    let counts = history.series[0].column("count").unwrap();
    assert_eq!(&counts[..4], [1.0, 0.0, 1.0, 0.0], "nothing was counted where somebody looked");
    assert!(counts[20..25].iter().all(|count| count.is_nan()), "{:?}", &counts[18..27]);
    assert!(counts[60..118].iter().all(|count| count.is_nan()), "{:?}", &counts[58..]);
    let reasons: Vec<&str> =
        history.series[0].gaps.iter().filter(|gap| !gap.partial).map(|gap| gap.reason.as_str()).collect();
    assert_eq!(reasons, ["agent_down", "not_reported", "not_reported"]);

    let others = Question::IoByOthers(OthersScope { members: Vec::new(), class: None, top: 2 });
    let history = ask(&query, &others, &plan(BEGIN, BEGIN + 1_200, 600)).await;
    let names: Vec<&str> = history.series.iter().map(|series| series.labels["process"].as_str()).collect();
    assert_eq!(names, ["other", "rsync"], "the two that hurt most");
    let rsync = &history.series[1];
    assert_eq!(rsync.column("wait_ns").unwrap(), [50.0, 0.0]);
    assert_eq!(rsync.column("slow_syncs").unwrap(), [2.0, 0.0]);
    engine.supervisor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_seconds_come_from_the_live_stream_and_the_api_names_what_does_not_fit() {
    let Some(engine) = engine().await else { return };
    let (url, key) = engine.endpoint();
    let password = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(password.path(), key).unwrap();
    let password = password.path().to_str().unwrap();
    let program = Program::start(&[
        "--clickhouse-url",
        &url,
        "--clickhouse-user",
        "default",
        "--clickhouse-password-file",
        password,
    ])
    .await;
    program.eventually("/readyz", |ready| ready["store"]["status"] == "ok").await;
    let agent = Agent::connect(&program.ingest, 1, &[Member::quick(1)]).await;
    let clusters = program.eventually("/api/v1/clusters", |all| !all["clusters"][0].is_null()).await;
    let id = clusters["clusters"][0]["id"].as_str().unwrap().to_owned();
    let path = format!("/api/v1/clusters/{id}");
    // Nothing of it is stored: it sends no batches.
    let latency = format!("{path}/latency/history?from=-1m&step=5s&class=wal");
    let count = |answer: &Value| {
        let counts = answer["series"][0]["values"]["count"].as_array().cloned().unwrap_or_default();
        counts.iter().filter_map(Value::as_f64).sum::<f64>()
    };
    let answer = program.eventually(&latency, |answer| count(answer) >= 800.0).await;
    let series = &answer["series"][0];
    assert!(series["live_from"].is_i64() && series["member"] == "0000000000000001", "{series}");
    let p99 = series["values"]["p99_ns"].as_array().unwrap().iter().filter_map(Value::as_f64);
    assert!(
        p99.clone().count() > 0 && p99.into_iter().all(|ns| (ns / 900_000.0 - 1.0).abs() <= 0.05),
        "{series}"
    );
    drop(agent);

    let csv = program.text(&format!("{path}/latency/history?from=-1m&step=5s&format=csv")).await;
    assert!(csv.starts_with("at,cluster,offset_seconds,name,member,agent,labels,p50_ns"), "{csv}");
    let arrow = format!("{path}/latency/history?from=-1m&format=arrow");
    let kind = reqwest::get(format!("http://{}{arrow}", program.api)).await.unwrap();
    let kind = kind.headers()["content-type"].clone();
    assert_eq!(kind, "application/vnd.apache.arrow.stream");
    let compared = program.get(&format!("/api/v1/compare?clusters={id}&of=syncs&from=-1m&offset=1d")).await;
    assert_eq!(compared["series"][0]["cluster"], id.as_str());
    for nothing in [
        "metrics/history?name=none",
        "writes/history",
        "io/others",
        "resources",
        "raft",
        "resources?from=-90d",
    ] {
        let answer = program.get(&format!("{path}/{nothing}")).await;
        assert_eq!(answer["series"], serde_json::json!([]), "{nothing}");
        assert!(!answer["at"].as_array().unwrap().is_empty(), "{nothing}");
    }
    for (bad, detail) in [
        (format!("{path}/metrics/history"), "name"),
        (format!("{path}/latency/history?from=-1d&step=1"), "more than 11000"),
        (format!("{path}/latency/history?stepp=1"), "stepp"),
        (format!("{path}/syncs/history?format=xml"), "format: \"xml\""),
        (format!("{path}/resources?group=cpu"), "group: \"cpu\""),
        (format!("/api/v1/compare?clusters={id}&of=nothing"), "of: \"nothing\""),
        ("/api/v1/compare?clusters=&of=raft".to_owned(), "clusters:"),
    ] {
        let (status, problem) = program.ask(&bad).await;
        assert_eq!(status, 400, "{bad}: {problem}");
        assert!(problem["detail"].as_str().unwrap().contains(detail), "{bad}: {problem}");
    }
    assert_eq!(program.ask("/api/v1/compare?clusters=nobody&of=raft").await.0, 404);
    program.stop().await;
    engine.supervisor.stop().await;
}
