//! `docs/tables.md` is what the schema says of itself, and the examples in it run.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says where")]

#[path = "store/support.rs"]
mod support;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use etcdmon_aggregator::store::{Client, Retention, Table, migrate};
use serde::Deserialize;
use support::{Agent, engine};

const HEAD: &str = include_str!("../src/store/schema/tables.head.md");
const EXAMPLES: &str = include_str!("../src/store/schema/examples.sql");

#[derive(clickhouse::Row, Deserialize)]
struct Described {
    name: String,
    comment: String,
    sorting_key: String,
    partition_key: String,
}

#[derive(clickhouse::Row, Deserialize)]
struct Column {
    owner: String,
    name: String,
    kind: String,
    comment: String,
}

/// An example: its table, what it shows, and the statement.
struct Example {
    table: &'static str,
    title: &'static str,
    sql: &'static str,
}

fn examples() -> Vec<Example> {
    let parse = |text: &'static str| {
        let (title, sql) = text.trim().strip_prefix("-- ").unwrap().split_once('\n').unwrap();
        let (table, title) = title.split_once(": ").unwrap();
        Example { table, title, sql: sql.trim_end_matches(';') }
    };
    EXAMPLES.split(";\n").filter(|text| !text.trim().is_empty()).map(parse).collect()
}

async fn fetch<T: clickhouse::RowOwned + clickhouse::RowRead>(client: &Client, sql: &str) -> Vec<T> {
    let rows = client.connect().unwrap().query_raw(sql).fetch_all().await;
    rows.unwrap_or_else(|error| panic!("{sql}: {error}"))
}

const IDENTITY: [&str; 4] = ["agent", "epoch", "sequence", "row"];

fn section(table: &Described, columns: &[&Column]) -> String {
    let mut text = format!("### `{}`\n\n{}\n\n", table.name, table.comment);
    let is_view = table.name.starts_with("v_");
    let is_delivered = Table::ALL.iter().any(|known| known.name() == table.name);
    if is_view {
        let list: Vec<String> =
            columns.iter().map(|column| format!("`{}` {}", column.name, column.kind)).collect();
        writeln!(text, "Columns: {}.", list.join(", ")).unwrap();
    } else {
        text.push_str("| column | type | meaning |\n|---|---|---|\n");
        for column in columns.iter().filter(|it| !is_delivered || !IDENTITY.contains(&it.name.as_str())) {
            assert!(!column.comment.is_empty(), "{}.{} has no comment", table.name, column.name);
            let (kind, comment) = (column.kind.replace('|', "\\|"), column.comment.replace('|', "\\|"));
            writeln!(text, "| `{}` | {kind} | {comment} |", column.name).unwrap();
        }
        let kept = Retention::default().tables();
        let kept = kept.iter().find(|(name, _)| *name == table.name);
        let kept =
            kept.map_or_else(String::new, |(_, time)| format!(" Kept {} days.", time.as_secs() / 86_400));
        let partitions = match table.partition_key.as_str() {
            "" => String::new(),
            key => format!(", a partition for each `{key}`"),
        };
        writeln!(text, "\nSorted by ({}){partitions}.{kept}", table.sorting_key).unwrap();
    }
    let mut own = examples();
    own.retain(|example| example.table == table.name);
    assert!(!own.is_empty(), "{} has no example", table.name);
    for example in own {
        writeln!(text, "\n{}:\n\n```sql\n{}\n```", example.title, example.sql).unwrap();
    }
    text.push('\n');
    text
}

async fn render(client: &Client) -> String {
    let tables: Vec<Described> = fetch(
        client,
        "SELECT name, comment, sorting_key, partition_key FROM system.tables WHERE database = currentDatabase() \
         AND name != 'schema_migrations' ORDER BY name",
    )
    .await;
    let columns: Vec<Column> = fetch(
        client,
        "SELECT table AS owner, name, type AS kind, comment FROM system.columns WHERE database = currentDatabase() \
         ORDER BY table, position",
    )
    .await;
    let mut parts = ["{views}", "{telemetry}", "{sums}", "{others}"].map(|place| (place, String::new()));
    for table in &tables {
        let own: Vec<&Column> = columns.iter().filter(|column| column.owner == table.name).collect();
        let is_sum = ["_10s", "_1m", "_1h"].iter().any(|suffix| table.name.ends_with(suffix));
        let part = match table.name.as_str() {
            name if name.starts_with("v_") => 0,
            name if Table::ALL.iter().any(|known| known.name() == name) => 1,
            _ if is_sum => 2,
            _ => 3,
        };
        parts[part].1.push_str(&section(table, &own));
    }
    let text = parts.iter().fold(HEAD.to_owned(), |text, (place, part)| text.replace(place, part));
    format!("{}\n", text.trim_end())
}

fn document() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/tables.md")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_document_is_what_the_schema_says_and_its_examples_run() {
    let Some(engine) = engine().await else { return };
    let client = engine.client("etcdmon");
    migrate::migrate(&client).await.unwrap();
    let text = render(&client).await;
    if std::env::var_os("ETCD_MONITOR_UPDATE").is_some() {
        std::fs::write(document(), &text).unwrap();
    }
    let found = std::fs::read_to_string(document()).unwrap_or_default();
    assert!(found == text, "docs/tables.md is stale: `cargo xtask codegen` renews it");

    // Examples on rows of every kind, of now.
    let (store, _stop) = support::store(&client);
    let mut agent = Agent::new();
    let now = chrono::Utc::now().timestamp();
    store.write(agent.decoded(120, now - 30), false).await.unwrap();
    let connection = client.connect().unwrap();
    let sums = "INSERT INTO sync_histograms_1m SELECT cluster, member, class, toStartOfMinute(toDateTime(at)), sumMap(buckets), \
                sum(count), sum(sum_ns), sum(errors), sum(run_delay_ns), count() FROM sync_histograms GROUP BY ALL";
    connection.query_raw(sums).execute().await.unwrap();
    let mut answers = 0;
    for example in examples() {
        let sql = format!("SELECT count() FROM ({})", example.sql);
        let rows = connection.query_raw(&sql).fetch_one::<u64>().await;
        answers += rows.unwrap_or_else(|error| panic!("{}: {error}\n{}", example.title, example.sql)).min(1);
    }
    assert!(answers >= 10, "only {answers} examples found anything");
    engine.supervisor.stop().await;
}
