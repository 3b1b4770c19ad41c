CREATE DATABASE IF NOT EXISTS `etcdmon` ON CLUSTER 'etcdmon';

CREATE TABLE IF NOT EXISTS schema_migrations_local ON CLUSTER 'etcdmon' (version UInt32, name String, checksum String, applied_at DateTime64(3, 'UTC') DEFAULT now64(3)) ENGINE = ReplicatedMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}')
ORDER BY version SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS schema_migrations ON CLUSTER 'etcdmon' AS schema_migrations_local
ENGINE = Distributed('etcdmon', currentDatabase(), 'schema_migrations_local', cityHash64(version));

CREATE TABLE IF NOT EXISTS sync_histograms_local ON CLUSTER 'etcdmon' (
  agent        UUID CODEC(ZSTD(1)),
  epoch        UUID CODEC(ZSTD(1)),
  sequence     UInt64 CODEC(Delta(8), ZSTD(1)),
  row          UInt32 CODEC(Delta(4), ZSTD(1)),
  cluster      LowCardinality(String),
  member       UInt64 CODEC(ZSTD(1)),
  at           DateTime64(9, 'UTC') CODEC(Delta(8), ZSTD(1)),
  class        LowCardinality(String),
  hook         LowCardinality(String),
  buckets      Map(UInt16, UInt64) CODEC(ZSTD(1)),
  count        UInt64 CODEC(ZSTD(1)),
  sum_ns       UInt64 CODEC(ZSTD(1)),
  errors       UInt64 CODEC(ZSTD(1)),
  run_delay_ns UInt64 CODEC(ZSTD(1))
) ENGINE = ReplicatedMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}')
PARTITION BY toDate(at)
ORDER BY (cluster, class, member, at)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, replicated_deduplication_window = 1000;

CREATE TABLE IF NOT EXISTS sync_histograms ON CLUSTER 'etcdmon' AS sync_histograms_local
ENGINE = Distributed('etcdmon', currentDatabase(), 'sync_histograms_local', cityHash64(cluster, member));

CREATE TABLE IF NOT EXISTS syncs_local ON CLUSTER 'etcdmon' (
  agent         UUID CODEC(ZSTD(1)),
  epoch         UUID CODEC(ZSTD(1)),
  sequence      UInt64 CODEC(Delta(8), ZSTD(1)),
  row           UInt32 CODEC(Delta(4), ZSTD(1)),
  cluster       LowCardinality(String),
  member        UInt64 CODEC(ZSTD(1)),
  at            DateTime64(9, 'UTC') CODEC(Delta(8), ZSTD(1)),
  class         LowCardinality(String),
  boot          UUID CODEC(ZSTD(1)),
  start_mono_ns UInt64 CODEC(Delta(8), ZSTD(1)),
  latency_ns    UInt64 CODEC(ZSTD(1)),
  pid           UInt32 CODEC(ZSTD(1)),
  thread_id     UInt32 CODEC(ZSTD(1)),
  run_delay_ns  UInt64 CODEC(ZSTD(1)),
  written_bytes UInt64 CODEC(ZSTD(1)),
  inode         UInt64 CODEC(ZSTD(1)),
  device        UInt32 CODEC(ZSTD(1)),
  result        Int32 CODEC(ZSTD(1)),
  reason        LowCardinality(String),
  sample_every  UInt32 CODEC(ZSTD(1)),
  slow_ns       UInt64 CODEC(ZSTD(1))
) ENGINE = ReplicatedMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}')
PARTITION BY toDate(at)
ORDER BY (cluster, class, member, at)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, replicated_deduplication_window = 1000;

CREATE TABLE IF NOT EXISTS syncs ON CLUSTER 'etcdmon' AS syncs_local
ENGINE = Distributed('etcdmon', currentDatabase(), 'syncs_local', cityHash64(cluster, member));

CREATE TABLE IF NOT EXISTS writes_local ON CLUSTER 'etcdmon' (
  agent                 UUID CODEC(ZSTD(1)),
  epoch                 UUID CODEC(ZSTD(1)),
  sequence              UInt64 CODEC(Delta(8), ZSTD(1)),
  row                   UInt32 CODEC(Delta(4), ZSTD(1)),
  cluster               LowCardinality(String),
  member                UInt64 CODEC(ZSTD(1)),
  at                    DateTime64(9, 'UTC') CODEC(Delta(8), ZSTD(1)),
  class                 LowCardinality(String),
  written_bytes         UInt64 CODEC(ZSTD(1)),
  observed_ns           UInt64 CODEC(ZSTD(1)),
  calls                 UInt64 CODEC(ZSTD(1)),
  buckets               Map(UInt16, UInt64) CODEC(ZSTD(1)),
  sum_ns                UInt64 CODEC(ZSTD(1)),
  sync_file_range_calls UInt64 CODEC(ZSTD(1))
) ENGINE = ReplicatedMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}')
PARTITION BY toDate(at)
ORDER BY (cluster, class, member, at)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, replicated_deduplication_window = 1000;

CREATE TABLE IF NOT EXISTS writes ON CLUSTER 'etcdmon' AS writes_local
ENGINE = Distributed('etcdmon', currentDatabase(), 'writes_local', cityHash64(cluster, member));

CREATE TABLE IF NOT EXISTS metrics_local ON CLUSTER 'etcdmon' (
  agent    UUID CODEC(ZSTD(1)),
  epoch    UUID CODEC(ZSTD(1)),
  sequence UInt64 CODEC(Delta(8), ZSTD(1)),
  row      UInt32 CODEC(Delta(4), ZSTD(1)),
  cluster  LowCardinality(String),
  member   UInt64 CODEC(ZSTD(1)),
  at       DateTime64(9, 'UTC') CODEC(DoubleDelta, ZSTD(1)),
  name     LowCardinality(String),
  labels   LowCardinality(String),
  type     LowCardinality(String),
  value    Float64 CODEC(Gorilla, ZSTD(1))
) ENGINE = ReplicatedMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}')
PARTITION BY toDate(at)
ORDER BY (cluster, name, member, labels, at)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, replicated_deduplication_window = 1000;

CREATE TABLE IF NOT EXISTS metrics ON CLUSTER 'etcdmon' AS metrics_local
ENGINE = Distributed('etcdmon', currentDatabase(), 'metrics_local', cityHash64(cluster, member));

CREATE TABLE IF NOT EXISTS events_local ON CLUSTER 'etcdmon' (
  agent    UUID CODEC(ZSTD(1)),
  epoch    UUID CODEC(ZSTD(1)),
  sequence UInt64 CODEC(Delta(8), ZSTD(1)),
  row      UInt32 CODEC(Delta(4), ZSTD(1)),
  cluster  LowCardinality(String),
  member   UInt64 CODEC(ZSTD(1)),
  at       DateTime64(9, 'UTC') CODEC(Delta(8), ZSTD(1)),
  kind     LowCardinality(String),
  details  String CODEC(ZSTD(1))
) ENGINE = ReplicatedMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}')
PARTITION BY toDate(at)
ORDER BY (cluster, kind, member, at)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, replicated_deduplication_window = 1000;

CREATE TABLE IF NOT EXISTS events ON CLUSTER 'etcdmon' AS events_local
ENGINE = Distributed('etcdmon', currentDatabase(), 'events_local', cityHash64(cluster, member));

CREATE TABLE IF NOT EXISTS ledger_local ON CLUSTER 'etcdmon' (
  agent      UUID CODEC(ZSTD(1)),
  epoch      UUID CODEC(ZSTD(1)),
  sequence   UInt64 CODEC(Delta(8), ZSTD(1)),
  row        UInt32 CODEC(Delta(4), ZSTD(1)),
  cluster    LowCardinality(String),
  member     UInt64 CODEC(ZSTD(1)),
  at         DateTime64(9, 'UTC') CODEC(Delta(8), ZSTD(1)),
  stream     LowCardinality(String),
  kind       LowCardinality(String),
  reason     LowCardinality(String),
  count      UInt64 CODEC(ZSTD(1)),
  blind_from DateTime64(9, 'UTC') CODEC(Delta(8), ZSTD(1)),
  blind_to   DateTime64(9, 'UTC') CODEC(Delta(8), ZSTD(1))
) ENGINE = ReplicatedMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}')
PARTITION BY toDate(at)
ORDER BY (cluster, stream, member, at)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, replicated_deduplication_window = 1000;

CREATE TABLE IF NOT EXISTS ledger ON CLUSTER 'etcdmon' AS ledger_local
ENGINE = Distributed('etcdmon', currentDatabase(), 'ledger_local', cityHash64(cluster, member));

CREATE TABLE IF NOT EXISTS autopsies_local ON CLUSTER 'etcdmon' (
  agent             UUID CODEC(ZSTD(1)),
  epoch             UUID CODEC(ZSTD(1)),
  sequence          UInt64 CODEC(Delta(8), ZSTD(1)),
  row               UInt32 CODEC(Delta(4), ZSTD(1)),
  cluster           LowCardinality(String),
  member            UInt64 CODEC(ZSTD(1)),
  at                DateTime64(9, 'UTC') CODEC(Delta(8), ZSTD(1)),
  class             LowCardinality(String),
  boot              UUID CODEC(ZSTD(1)),
  start_mono_ns     UInt64 CODEC(Delta(8), ZSTD(1)),
  latency_ns        UInt64 CODEC(ZSTD(1)),
  pid               UInt32 CODEC(ZSTD(1)),
  thread_id         UInt32 CODEC(ZSTD(1)),
  inode             UInt64 CODEC(ZSTD(1)),
  device            UInt32 CODEC(ZSTD(1)),
  threshold_ns      UInt64 CODEC(ZSTD(1)),
  on_cpu_ns         UInt64 CODEC(ZSTD(1)),
  run_queue_ns      UInt64 CODEC(ZSTD(1)),
  journal_ns        UInt64 CODEC(ZSTD(1)),
  queue_ns          UInt64 CODEC(ZSTD(1)),
  device_ns         UInt64 CODEC(ZSTD(1)),
  flush_ns          UInt64 CODEC(ZSTD(1)),
  throttle_ns       UInt64 CODEC(ZSTD(1)),
  steal_ns          UInt64 CODEC(ZSTD(1)),
  unexplained_ns    UInt64 CODEC(ZSTD(1)),
  journal_device_ns UInt64 CODEC(ZSTD(1)),
  journal_queue_ns  UInt64 CODEC(ZSTD(1)),
  journal_flush_ns  UInt64 CODEC(ZSTD(1)),
  cpu_quota_ns      UInt64 CODEC(ZSTD(1)),
  wait_ns           UInt64 CODEC(ZSTD(1)),
  gaps              LowCardinality(String),
  culprits          String CODEC(ZSTD(1))
) ENGINE = ReplicatedMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}')
PARTITION BY toDate(at)
ORDER BY (cluster, class, member, at)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, replicated_deduplication_window = 1000;

CREATE TABLE IF NOT EXISTS autopsies ON CLUSTER 'etcdmon' AS autopsies_local
ENGINE = Distributed('etcdmon', currentDatabase(), 'autopsies_local', cityHash64(cluster, member));

