//! Fills a store with 90 days of telemetry by INSERT … SELECT: rows as agents and rollups make them, in the engine itself.

use std::time::Instant;

use anyhow::Context;
use chrono::Utc;
use serde::Deserialize;
use uuid::Uuid;

use crate::shape::{self, MEMBERS};

const DAY: i64 = 86_400;

/// What is in the store.
#[derive(clickhouse::Row, Deserialize)]
pub struct Filled {
    pub rows: u64,
    pub bytes: u64,
    /// Time of the newest row, Unix seconds.
    pub newest: i64,
}

/// Fills it, unless it was filled before.
pub async fn fill(client: &clickhouse::Client, clusters: &[Uuid]) -> anyhow::Result<Filled> {
    let begun: u64 = client.query_raw("SELECT count() FROM rollup_progress").fetch_one().await?;
    if begun == 0 {
        let began = Instant::now();
        let filling = Filling { client, now: Utc::now().timestamp() / 60 * 60 };
        filling.series(clusters).await?;
        filling.metrics().await?;
        filling.syncs().await?;
        filling.others().await?;
        filling.progress().await?;
        eprintln!("filled in {:.0} s", began.elapsed().as_secs_f64());
    }
    let sizes = "SELECT sum(rows) AS rows, sum(bytes_on_disk) AS bytes, \
                 (SELECT toInt64(toUnixTimestamp(max(at))) + 1 FROM sync_histograms) AS newest FROM system.parts \
                 WHERE active AND database = currentDatabase() AND table NOT LIKE 'bench%'";
    client.query_raw(sizes).fetch_one().await.context("size of the store")
}

struct Filling<'a> {
    client: &'a clickhouse::Client,
    now: i64,
}

impl Filling<'_> {
    async fn run(&self, what: &str, sql: &str) -> anyhow::Result<()> {
        let began = Instant::now();
        let query = self.client.query_raw(sql).with_setting("max_insert_threads", "2");
        query.execute().await.with_context(|| format!("{what}: {sql}"))?;
        eprintln!("{what}: {:.1} s", began.elapsed().as_secs_f64());
        Ok(())
    }

    /// Members of all clusters, and their series, as tables to make rows from.
    async fn series(&self, clusters: &[Uuid]) -> anyhow::Result<()> {
        self.run(
            "members",
            "CREATE TABLE bench_members (cluster String, member UInt64, agent UUID, dense UInt8) ENGINE = Memory",
        )
        .await?;
        let members: Vec<String> = (0u64..)
            .zip(clusters)
            .flat_map(|(number, cluster)| {
                (1..=MEMBERS).map(move |member| {
                    let id = number * 100 + member;
                    format!(
                        "('{cluster}', {id}, '{}', {})",
                        Uuid::from_u128(id.into()),
                        u8::from(number == 0)
                    )
                })
            })
            .collect();
        self.run("members", &format!("INSERT INTO bench_members VALUES {}", members.join(", "))).await?;
        self.run(
            "series",
            "CREATE TABLE bench_series (name String, labels String, type String, period UInt32, scale Float64, node UInt8) \
             ENGINE = Memory",
        )
        .await?;
        let series: Vec<String> = shape::series()
            .iter()
            .map(|it| {
                let node = u8::from(it.node);
                format!(
                    "('{}', '{}', '{}', {}, {:?}, {node})",
                    it.name, it.labels, it.kind, it.period, it.scale
                )
            })
            .collect();
        self.run("series", &format!("INSERT INTO bench_series VALUES {}", series.join(", "))).await
    }

    /// Raw samples: a day of the dense cluster and two hours of the others. Rollups: of the dense cluster 30 days of 10 s of what is
    /// asked for most and 90 days of some minutes, of all clusters 90 days of hours.
    ///
    /// The times come last in every join, so that rows come nearly in the order of their table.
    async fn metrics(&self) -> anyhow::Result<()> {
        for (whose, from, step) in
            [("dense", self.now - DAY, 3 * 3_600), ("NOT dense", self.now - 7_200, 3_600)]
        {
            for begin in (from..self.now).step_by(step) {
                let length = i64::try_from(step)?.min(self.now - begin);
                // A counter follows the clock; a gauge moves around its value.
                self.run(
                    &format!("metrics, {whose}"),
                    &format!(
                        "INSERT INTO metrics SELECT agent, agent AS epoch, second AS sequence, toUInt32(rowNumberInAllBlocks()) AS row, \
                         if(node, '{nil}', cluster), if(node, 0, member), fromUnixTimestamp64Nano((toInt64(second) * 1000 + \
                         cityHash64(name, member) % 1000) * 1000000, 'UTC'), name, labels, type, \
                         if(type = 'counter' OR scale = 1000, floor(second * scale + 50 * sin(second / 300)), \
                         scale * (1 + 0.1 * sin(second / 700) + rand() / 4294967296 / 50)) FROM \
                         (SELECT * FROM bench_members WHERE {whose}) AS members CROSS JOIN bench_series CROSS JOIN \
                         (SELECT {begin} + number AS second FROM numbers({length})) AS times \
                         WHERE second % period = cityHash64(labels, member) % period",
                        nil = Uuid::nil()
                    ),
                )
                .await?;
            }
        }
        const OFTEN: &str =
            "(name LIKE 'etcd_%' OR name LIKE 'etcdmon_process_cpu%' OR name LIKE 'etcdmon_disk_busy%')";
        for (table, bucket, days, whose, which) in [
            ("metrics_10s", 10, 30, "dense", OFTEN),
            ("metrics_1m", 60, 90, "dense", "name LIKE 'etcd_mvcc%'"),
            ("metrics_1h", 3_600, 91, "1", "1"),
        ] {
            let (end, chunk) = (self.now / bucket * bucket, 10 * DAY);
            for begin in (end - days * DAY..end).step_by(10 * 86_400) {
                let buckets = chunk.min(end - begin) / bucket;
                self.run(
                    table,
                    &format!(
                        "INSERT INTO {table} SELECT if(node, '{nil}', cluster), name, if(node, 0, member) AS whose, labels, agent, \
                         toDateTime(second, 'UTC'), type, toUInt32({bucket} / period) AS samples, floor(second * scale) AS first, \
                         floor((second + {bucket} - 1) * scale) AS last, first AS min, last AS max, samples * (first + last) / 2, \
                         if(type = 'counter', last - first, 0), toDateTime64(second, 3, 'UTC'), \
                         toDateTime64(second + {bucket} - 1, 3, 'UTC'), samples FROM \
                         (SELECT * FROM bench_members WHERE {whose}) AS members CROSS JOIN \
                         (SELECT * FROM bench_series WHERE {which}) AS series CROSS JOIN \
                         (SELECT toUInt32({begin} + number * {bucket}) AS second FROM numbers({buckets})) AS times",
                        nil = Uuid::nil()
                    ),
                )
                .await?;
            }
        }
        Ok(())
    }

    /// Histograms of syncs and writes: a row a second for WAL and backend, 7 days raw of the dense cluster and one of the others.
    async fn syncs(&self) -> anyhow::Result<()> {
        // 20 of about 60 buckets around a millisecond, other ones every second.
        const BUCKETS: &str = "mapFromArrays(arrayMap(i -> toUInt16(250 + i * 3 + cityHash64(second, i, member) % 3), range(20)), \
                               arrayMap(i -> toUInt64(1 + (cityHash64(second, i) % 64) * (21 - i)), range(20)))";
        let classes = "(SELECT arrayJoin(['wal', 'backend']) AS class) AS classes";
        for (whose, days) in [("dense", 7), ("NOT dense", 1)] {
            let from = self.now - days * DAY;
            for begin in (from..self.now).step_by(86_400) {
                let times = format!("(SELECT {begin} + number AS second FROM numbers({DAY})) AS times");
                self.run(
                    &format!("sync_histograms, {whose}"),
                    &format!(
                        "INSERT INTO sync_histograms SELECT agent, agent, second, toUInt32(rowNumberInAllBlocks()), cluster, member, \
                         fromUnixTimestamp64Nano(toInt64(second) * 1000000000, 'UTC'), class, 'filesystem', {BUCKETS} AS buckets, \
                         arraySum(mapValues(buckets)) AS count, count * 1500000, 0, count * 1000 \
                         FROM (SELECT * FROM bench_members WHERE {whose}) AS members CROSS JOIN {classes} CROSS JOIN {times}"
                    ),
                )
                .await?;
                self.run(
                    &format!("writes, {whose}"),
                    &format!(
                        "INSERT INTO writes SELECT agent, agent, second, toUInt32(rowNumberInAllBlocks()), cluster, member, \
                         fromUnixTimestamp64Nano(toInt64(second) * 1000000000, 'UTC'), class, 2000000 + second % 1000, 100000000, \
                         80, {BUCKETS}, 80 * 9000, 0 FROM (SELECT * FROM bench_members WHERE {whose}) AS members CROSS JOIN {classes} CROSS JOIN {times}"
                    ),
                )
                .await?;
            }
        }
        for (suffix, bucket, days) in [("10s", 10, 30), ("1m", 60, 90), ("1h", 3_600, 91)] {
            let end = self.now / bucket * bucket;
            let (begin, buckets) = (end - days * DAY, days * DAY / bucket);
            let times = format!(
                "(SELECT toUInt32({begin} + number * {bucket}) AS second FROM numbers({buckets})) AS times"
            );
            self.run(
                &format!("sync_histograms_{suffix}"),
                &format!(
                    "INSERT INTO sync_histograms_{suffix} SELECT cluster, member, class, toDateTime(second, 'UTC'), {BUCKETS} AS buckets, \
                     arraySum(mapValues(buckets)) AS count, count * 1500000, 0, count * 1000, {bucket} \
                     FROM (SELECT * FROM bench_members WHERE dense OR {bucket} > 60) AS members CROSS JOIN {classes} CROSS JOIN {times}"
                ),
            )
            .await?;
            self.run(
                &format!("writes_{suffix}"),
                &format!(
                    "INSERT INTO writes_{suffix} SELECT cluster, member, class, toDateTime(second, 'UTC'), \
                     2000000 * {bucket}, 100000000 * {bucket}, 80 * {bucket}, {BUCKETS}, 80 * 9000 * {bucket}, 0, {bucket} \
                     FROM (SELECT * FROM bench_members WHERE dense OR {bucket} > 60) AS members CROSS JOIN {classes} CROSS JOIN {times}"
                ),
            )
            .await?;
        }
        Ok(())
    }

    /// The ledger: six streams a minute and member for 90 days, a few drops, a blind interval a week; and 200 autopsies a day and
    /// member with two culprits each.
    async fn others(&self) -> anyhow::Result<()> {
        let minutes = 90 * DAY / 60;
        let begin = self.now - 90 * DAY;
        for part in 0..9 {
            let (from, count) = (begin + part * 10 * DAY, minutes / 9);
            self.run(
                "ledger",
                &format!(
                    "INSERT INTO ledger SELECT agent, agent, minute, toUInt32(rowNumberInAllBlocks()), cluster, member, \
                     fromUnixTimestamp64Nano(toInt64(minute) * 1000000000, 'UTC'), stream, \
                     multiIf(minute % 604800 = 0 AND stream = 'sync', 'blind', minute % 36000 = 0, 'dropped', 'produced') AS kind, \
                     multiIf(kind = 'blind', 'agent_down', kind = 'dropped', 'ring_full', ''), 600, \
                     fromUnixTimestamp64Nano(if(kind = 'blind', toInt64(minute) * 1000000000, 0), 'UTC'), \
                     fromUnixTimestamp64Nano(if(kind = 'blind', toInt64(minute + 30) * 1000000000, 0), 'UTC') \
                     FROM bench_members CROSS JOIN \
                     (SELECT arrayJoin(['sync', 'sync_row', 'write', 'metric', 'event', 'autopsy']) AS stream) AS streams \
                     CROSS JOIN (SELECT {from} + number * 60 AS minute FROM numbers({count})) AS times"
                ),
            )
            .await?;
        }
        let every = DAY / 200;
        let count = 90 * DAY / every;
        let culprit = |comm: &str, pod: &str, wait: &str| {
            format!(
                "'{{\"origin\":\"process\",\"certainty\":\"high\",\"process_id\":', toString(600 + second % 100), \
                 ',\"comm\":\"{comm}\",\"process\":\"{comm} (/usr/bin/{comm})\",\"cgroup\":\"/kubepods/{pod}\",\"container_id\":\"\",\
                 \"pod_uid\":\"{pod}-', toString(second % 12), '\",\"inode\":0,\"device\":266338304,\"requests\":3,\"bytes\":12288,\
                 \"syncs\":1,\"wait_ns\":{wait}}}'"
            )
        };
        let (backup, logs) = (culprit("rsync", "backup", "9000000"), culprit("fluentd", "logs", "4000000"));
        let times: Vec<String> = ["3000000"; 9].map(str::to_owned).into();
        self.run(
            "autopsies",
            &format!(
                "INSERT INTO autopsies SELECT agent, agent, second, toUInt32(rowNumberInAllBlocks()), cluster, member, \
                 fromUnixTimestamp64Nano(toInt64(second) * 1000000000, 'UTC'), if(second % 3 = 0, 'backend', 'wal'), agent, second, \
                 27000000, 1000, 1001, 77, 266338304, 10000000, {}, 1000000, 500000, 250000, 0, 16000000, '', \
                 concat('[', {backup}, ',', {logs}, ']') \
                 FROM bench_members CROSS JOIN (SELECT {begin} + number * {every} AS second FROM numbers({count})) AS times",
                times.join(", ")
            ),
        )
        .await
    }

    /// As the rollups leave it: minutes are made up to a minute ago, hours up to the last whole one.
    async fn progress(&self) -> anyhow::Result<()> {
        for source in ["metrics", "sync_histograms", "writes"] {
            for (level, bucket) in [("minutes", 60), ("hours", 3_600)] {
                let done = self.now / bucket * bucket;
                self.run(
                    "progress",
                    &format!(
                        "INSERT INTO rollup_progress SELECT '{source}', '{level}', toDateTime({done}, 'UTC')"
                    ),
                )
                .await?;
            }
        }
        // What is asked again and again was merged long before.
        for table in ["metrics_10s", "metrics_1m", "metrics_1h"] {
            self.run("merge", &format!("OPTIMIZE TABLE {table} FINAL")).await?;
        }
        Ok(())
    }
}
