//! The same schema for a cluster of ClickHouse servers. *Unproven*: no cluster was at hand; every statement is compared with
//! `schema/cluster.golden.sql`.
//!
//! There is one set of statements, those of the migrations. For a cluster each is turned into what does the same on all of
//! its hosts: a table `t` becomes `t_local`, replicated within a shard, and a distributed table `t` in front of it, so that
//! whoever reads and writes needs to know nothing of this. Rows of one member stay on one shard: what is merged or looked at
//! together lies together. The path of a replicated table has the macros `{shard}` and `{replica}` of each host.

/// A statement of a kind that is not known here.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("no form for clusters is known for: {0}")]
pub struct UnknownStatement(String);

/// Where replicas of a table meet, and who this one is.
const REPLICATION: &str = "'/clickhouse/tables/{shard}/{database}/{table}', '{replica}'";

/// Settings of every statement: an insert is over when the shards have it, on more than half of their replicas, and whoever
/// asks afterwards sees it on any of them. Subqueries are answered by the whole cluster, too.
pub(super) fn settings() -> impl Iterator<Item = (&'static str, &'static str)> {
    [
        ("distributed_foreground_insert", "1"),
        ("distributed_product_mode", "global"),
        ("insert_quorum", "auto"),
        ("insert_quorum_parallel", "0"),
        ("select_sequential_consistency", "1"),
    ]
    .into_iter()
}

/// What a statement of a migration becomes: itself for a single server.
///
/// # Errors
/// When it is of a kind that has no form for clusters here.
pub fn render(sql: &str, cluster: Option<&str>) -> Result<Vec<String>, UnknownStatement> {
    let Some(cluster) = cluster else { return Ok(vec![sql.to_owned()]) };
    let sql = without_comments(sql);
    let words: Vec<&str> = sql.split_whitespace().take(8).collect();
    let on_cluster = format!("ON CLUSTER '{cluster}'");
    let unknown = || UnknownStatement(sql.chars().take(100).collect());
    let named = |keywords: usize| {
        let name = words
            .get(keywords)
            .map(|word| word.split('(').next().unwrap_or(word))
            .filter(|name| !name.is_empty());
        name.ok_or_else(unknown)
    };
    let behind = |name: &str, new: &str| sql.replacen(name, new, 1);
    Ok(match words.as_slice() {
        ["CREATE", "TABLE", "IF", "NOT", "EXISTS", ..] => {
            let name = named(5)?;
            let table = Created::of(&sql, name).ok_or_else(unknown)?;
            vec![table.local(&on_cluster), table.distributed(cluster, &on_cluster)]
        }
        ["CREATE", "DATABASE" | "VIEW", "IF", "NOT", "EXISTS", ..] => {
            let name = named(5)?;
            vec![behind(name, &format!("{name} {on_cluster}"))]
        }
        ["CREATE", "OR", "REPLACE", "VIEW", ..] => {
            let name = named(4)?;
            vec![behind(name, &format!("{name} {on_cluster}"))]
        }
        ["DROP", "VIEW", "IF", "EXISTS", ..] => {
            let name = named(4)?;
            vec![behind(name, &format!("{name} {on_cluster}"))]
        }
        ["ALTER", "TABLE", ..] => {
            let name = named(2)?;
            let local = behind(name, &format!("{name}_local {on_cluster}"));
            // The table in front has the columns, and neither order, time to live, indices nor settings.
            let of_columns = ["ADD COLUMN", "DROP COLUMN", "RENAME COLUMN", "MODIFY COLUMN"];
            match of_columns.iter().any(|kind| sql.contains(kind)) {
                true => vec![local, behind(name, &format!("{name} {on_cluster}"))],
                false => vec![local],
            }
        }
        ["INSERT", "INTO", ..] => vec![sql],
        _ => return Err(unknown()),
    })
}

/// The statement without lines that are comments before it.
fn without_comments(sql: &str) -> String {
    let lines = sql.lines().skip_while(|line| line.trim().is_empty() || line.trim_start().starts_with("--"));
    lines.collect::<Vec<_>>().join("\n")
}

/// A `CREATE TABLE` in its pieces.
struct Created<'a> {
    name: &'a str,
    /// Columns and indices, with their parentheses.
    columns: &'a str,
    /// `MergeTree`, `ReplacingMergeTree` …
    engine: &'a str,
    /// What the engine is given, without parentheses.
    arguments: &'a str,
    /// Partitions, order, settings.
    rest: &'a str,
}

impl<'a> Created<'a> {
    fn of(sql: &'a str, name: &'a str) -> Option<Self> {
        let (head, tail) = sql.split_once("ENGINE = ")?;
        let columns = head.split_once(name)?.1.trim();
        let end = tail.find(|letter: char| !letter.is_ascii_alphanumeric())?;
        let (engine, rest) = tail.split_at(end);
        let (arguments, rest) = match rest.strip_prefix('(') {
            Some(inside) => inside.split_once(')')?,
            None => ("", rest),
        };
        engine.ends_with("MergeTree").then_some(Self { name, columns, engine, arguments, rest: rest.trim() })
    }

    fn local(&self, on_cluster: &str) -> String {
        let Self { name, columns, engine, arguments, rest } = self;
        let more = if arguments.is_empty() { String::new() } else { format!(", {arguments}") };
        // A table made like another takes codecs and indices from where that one keeps its rows.
        let like = columns.strip_prefix("AS ").map(|other| format!("AS {other}_local"));
        let columns = like.as_deref().unwrap_or(columns);
        let rest = rest.replace("non_replicated_deduplication_window", "replicated_deduplication_window");
        format!(
            "CREATE TABLE IF NOT EXISTS {name}_local {on_cluster} {columns} ENGINE = Replicated{engine}({REPLICATION}{more})\n{rest}"
        )
    }

    fn distributed(&self, cluster: &str, on_cluster: &str) -> String {
        let Self { name, columns, rest, .. } = self;
        let order = rest.split_once("ORDER BY ").map_or("1", |(_, order)| first_expression(order));
        let has = |column: &str| {
            [*columns, order]
                .iter()
                .flat_map(|list| list.split([',', '(', '\n']))
                .any(|definition| definition.split_whitespace().next() == Some(column))
        };
        // Small tables of the program's own: by whatever they are sorted by.
        let key = if has("cluster") && has("member") { "cluster, member" } else { order };
        format!(
            "CREATE TABLE IF NOT EXISTS {name} {on_cluster} AS {name}_local\nENGINE = Distributed('{cluster}', currentDatabase(), \
             '{name}_local', cityHash64({key}))"
        )
    }
}

/// What is in the first parentheses, or the first word.
fn first_expression(order: &str) -> &str {
    match order.strip_prefix('(') {
        Some(inside) => inside.split(')').next().unwrap_or(inside),
        None => order.split_whitespace().next().unwrap_or("1"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::migrate::{MIGRATIONS, SCHEMA_MIGRATIONS};
    use super::*;

    const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/store/schema/cluster.golden.sql");

    /// Set to write the file anew; what it says then is to be read by somebody who knows ClickHouse.
    const WRITE: &str = "ETCD_MONITOR_WRITE_GOLDEN";

    #[test]
    fn every_statement_is_rendered_as_in_the_golden_file() {
        let mut all = vec!["CREATE DATABASE IF NOT EXISTS `etcdmon`", SCHEMA_MIGRATIONS];
        all.extend(MIGRATIONS.iter().flat_map(|migration| migration.statements()));
        let mut rendered = String::new();
        for sql in all {
            assert_eq!(render(sql, None).unwrap(), [sql], "a single server gets it as it is");
            for sql in render(sql, Some("etcdmon")).unwrap() {
                rendered += &format!("{sql};\n\n");
            }
        }
        if std::env::var_os(WRITE).is_some() {
            std::fs::write(GOLDEN, &rendered).unwrap();
        }
        let golden = std::fs::read_to_string(GOLDEN).unwrap_or_default();
        assert!(
            golden == rendered,
            "schema/cluster.golden.sql is not what is rendered: look at it after {WRITE}=1"
        );
    }

    #[test]
    fn tables_views_and_changes_reach_every_host() {
        let on = |sql: &str| render(sql, Some("c")).unwrap();
        let create = "-- Why.\nCREATE TABLE IF NOT EXISTS t (\n  cluster String,\n  member UInt64,\n  v UInt64\n) ENGINE = \
                      ReplacingMergeTree(v)\nORDER BY (cluster, member)\nSETTINGS non_replicated_deduplication_window = 5";
        assert_eq!(
            on(create),
            [
                "CREATE TABLE IF NOT EXISTS t_local ON CLUSTER 'c' (\n  cluster String,\n  member UInt64,\n  v UInt64\n) ENGINE = \
                 ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}', v)\n\
                 ORDER BY (cluster, member)\nSETTINGS replicated_deduplication_window = 5",
                "CREATE TABLE IF NOT EXISTS t ON CLUSTER 'c' AS t_local\n\
                 ENGINE = Distributed('c', currentDatabase(), 't_local', cityHash64(cluster, member))",
            ]
        );
        let like =
            on("CREATE TABLE IF NOT EXISTS t_1m AS t_10s ENGINE = MergeTree ORDER BY (cluster, member, at)");
        assert!(
            like[0].starts_with("CREATE TABLE IF NOT EXISTS t_1m_local ON CLUSTER 'c' AS t_10s_local ENGINE")
        );
        assert!(like[1].ends_with("cityHash64(cluster, member))"), "{like:?}");
        let own = on(
            "CREATE TABLE IF NOT EXISTS t (version UInt32) ENGINE = MergeTree ORDER BY version SETTINGS a = 1",
        );
        assert!(own[1].ends_with("cityHash64(version))"), "{own:?}");
        assert_eq!(
            on("CREATE OR REPLACE VIEW v AS SELECT 1"),
            ["CREATE OR REPLACE VIEW v ON CLUSTER 'c' AS SELECT 1"]
        );
        assert_eq!(on("ALTER TABLE t MODIFY TTL x"), ["ALTER TABLE t_local ON CLUSTER 'c' MODIFY TTL x"]);
        let both = on("ALTER TABLE t ADD COLUMN IF NOT EXISTS x UInt8");
        assert_eq!(both[1], "ALTER TABLE t ON CLUSTER 'c' ADD COLUMN IF NOT EXISTS x UInt8");
        assert!(render("OPTIMIZE TABLE t", Some("c")).is_err());
        assert!(render("CREATE TABLE IF NOT EXISTS t (a UInt8) ENGINE = Memory", Some("c")).is_err());
    }
}
