-- Sums over 10 s, a minute and an hour, recomputed from what is finer whenever that changed. `version` counts the raw rows
-- behind a row: they only ever become more, so of two rows of a bucket the one with more is right, whoever wrote it when.
CREATE TABLE IF NOT EXISTS sync_histograms_10s (
  cluster      LowCardinality(String) CODEC(ZSTD(1)),
  member       UInt64 CODEC(ZSTD(1)),
  class        LowCardinality(String) CODEC(ZSTD(1)),
  at           DateTime('UTC') CODEC(Delta(4), ZSTD(1)),
  buckets      Map(UInt16, UInt64) CODEC(ZSTD(1)),
  count        UInt64 CODEC(T64, ZSTD(1)),
  sum_ns       UInt64 CODEC(ZSTD(1)),
  errors       UInt64 CODEC(T64, ZSTD(1)),
  run_delay_ns UInt64 CODEC(ZSTD(1)),
  version      UInt64 CODEC(T64, ZSTD(1))
) ENGINE = ReplacingMergeTree(version)
PARTITION BY toDate(at)
ORDER BY (cluster, class, member, at)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS sync_histograms_1m AS sync_histograms_10s
ENGINE = ReplacingMergeTree(version)
PARTITION BY toMonday(at)
ORDER BY (cluster, class, member, at)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS sync_histograms_1h AS sync_histograms_10s
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(at)
ORDER BY (cluster, class, member, at)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS writes_10s (
  cluster               LowCardinality(String) CODEC(ZSTD(1)),
  member                UInt64 CODEC(ZSTD(1)),
  class                 LowCardinality(String) CODEC(ZSTD(1)),
  at                    DateTime('UTC') CODEC(Delta(4), ZSTD(1)),
  written_bytes         UInt64 CODEC(ZSTD(1)),
  observed_ns           UInt64 CODEC(T64, ZSTD(1)),
  calls                 UInt64 CODEC(T64, ZSTD(1)),
  buckets               Map(UInt16, UInt64) CODEC(ZSTD(1)),
  sum_ns                UInt64 CODEC(ZSTD(1)),
  sync_file_range_calls UInt64 CODEC(T64, ZSTD(1)),
  version               UInt64 CODEC(T64, ZSTD(1))
) ENGINE = ReplacingMergeTree(version)
PARTITION BY toDate(at)
ORDER BY (cluster, class, member, at)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS writes_1m AS writes_10s
ENGINE = ReplacingMergeTree(version)
PARTITION BY toMonday(at)
ORDER BY (cluster, class, member, at)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS writes_1h AS writes_10s
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(at)
ORDER BY (cluster, class, member, at)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS metrics_10s (
  cluster  LowCardinality(String) CODEC(ZSTD(1)),
  name     LowCardinality(String) CODEC(ZSTD(1)),
  member   UInt64 CODEC(ZSTD(1)),
  labels   LowCardinality(String) CODEC(ZSTD(1)),
  agent    UUID CODEC(ZSTD(1)),
  at       DateTime('UTC') CODEC(Delta(4), ZSTD(1)),
  type     LowCardinality(String) CODEC(ZSTD(1)),
  samples  UInt32 CODEC(T64, ZSTD(1)),
  first    Float64 CODEC(Delta(8), ZSTD(3)),
  last     Float64 CODEC(Delta(8), ZSTD(3)),
  min      Float64 CODEC(Delta(8), ZSTD(3)),
  max      Float64 CODEC(Delta(8), ZSTD(3)),
  sum      Float64 CODEC(Delta(8), ZSTD(3)),
  increase Float64 CODEC(Delta(8), ZSTD(3)),
  first_at DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
  last_at  DateTime64(3, 'UTC') CODEC(Delta(8), ZSTD(1)),
  version  UInt64 CODEC(T64, ZSTD(1))
) ENGINE = ReplacingMergeTree(version)
PARTITION BY toDate(at)
ORDER BY (cluster, name, member, labels, agent, at)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS metrics_1m AS metrics_10s
ENGINE = ReplacingMergeTree(version)
PARTITION BY toMonday(at)
ORDER BY (cluster, name, member, labels, agent, at)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS metrics_1h AS metrics_10s
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(at)
ORDER BY (cluster, name, member, labels, agent, at)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

-- How far each of them is: everything before `done` was recomputed.
CREATE TABLE IF NOT EXISTS rollup_progress (
  source LowCardinality(String),
  level  LowCardinality(String),
  done   SimpleAggregateFunction(max, DateTime('UTC'))
) ENGINE = AggregatingMergeTree
ORDER BY (source, level)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

-- Minutes before that for which rows came later: to be recomputed while `marked` > `done`.
CREATE TABLE IF NOT EXISTS rollup_marks (
  source LowCardinality(String),
  minute DateTime('UTC'),
  marked SimpleAggregateFunction(max, UInt64),
  done   SimpleAggregateFunction(max, UInt64)
) ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(minute)
ORDER BY (source, minute)
TTL minute + toIntervalDay(400)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1;

-- What the aggregator concluded, with the same delivery identity as telemetry: it is an agent of itself.
CREATE TABLE IF NOT EXISTS alerts (
  agent       UUID CODEC(ZSTD(1)),
  epoch       UUID CODEC(ZSTD(1)),
  sequence    UInt64 CODEC(Delta(8), ZSTD(1)),
  row         UInt32 CODEC(Delta(4), ZSTD(1)),
  cluster     LowCardinality(String),
  member      UInt64 CODEC(ZSTD(1)),
  at          DateTime64(9, 'UTC') CODEC(Delta(8), ZSTD(1)),
  fingerprint String CODEC(ZSTD(1)),
  rule        LowCardinality(String),
  severity    LowCardinality(String),
  state       LowCardinality(String),
  value       Float64 CODEC(ZSTD(1)),
  started_at  DateTime64(9, 'UTC') CODEC(Delta(8), ZSTD(1)),
  summary     String CODEC(ZSTD(1)),
  labels      String CODEC(ZSTD(1)),
  annotations String CODEC(ZSTD(1))
) ENGINE = MergeTree
PARTITION BY toDate(at)
ORDER BY (cluster, rule, member, at)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, non_replicated_deduplication_window = 1000,
  ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS diagnoses (
  agent      UUID CODEC(ZSTD(1)),
  epoch      UUID CODEC(ZSTD(1)),
  sequence   UInt64 CODEC(Delta(8), ZSTD(1)),
  row        UInt32 CODEC(Delta(4), ZSTD(1)),
  cluster    LowCardinality(String),
  member     UInt64 CODEC(ZSTD(1)),
  at         DateTime64(9, 'UTC') CODEC(Delta(8), ZSTD(1)),
  incident   UUID CODEC(ZSTD(1)),
  state      LowCardinality(String),
  cause      LowCardinality(String),
  confidence LowCardinality(String),
  share      Float64 CODEC(ZSTD(1)),
  onset_at   DateTime64(9, 'UTC') CODEC(Delta(8), ZSTD(1)),
  culprit    String CODEC(ZSTD(1)),
  summary    String CODEC(ZSTD(1)),
  next_step  String CODEC(ZSTD(1)),
  evidence   String CODEC(ZSTD(1))
) ENGINE = MergeTree
PARTITION BY toDate(at)
ORDER BY (cluster, cause, member, at)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, non_replicated_deduplication_window = 1000,
  ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

-- Clusters and members by name, as the aggregator last saw them.
CREATE TABLE IF NOT EXISTS members (
  cluster         LowCardinality(String),
  member          UInt64,
  cluster_name    LowCardinality(String),
  etcd_cluster_id UInt64,
  member_name     LowCardinality(String),
  etcd_version    LowCardinality(String),
  node            LowCardinality(String),
  agent           UUID,
  seen_at         DateTime64(3, 'UTC')
) ENGINE = ReplacingMergeTree(seen_at)
ORDER BY (cluster, member)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

ALTER TABLE sync_histograms MODIFY SETTING ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

ALTER TABLE syncs MODIFY SETTING ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

ALTER TABLE writes MODIFY SETTING ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

ALTER TABLE metrics MODIFY SETTING ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

ALTER TABLE events MODIFY SETTING ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

ALTER TABLE ledger MODIFY SETTING ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

ALTER TABLE autopsies MODIFY SETTING ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;
