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

CREATE TABLE IF NOT EXISTS sync_histograms_10s_local ON CLUSTER 'etcdmon' (
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
) ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}', version)
PARTITION BY toDate(at)
ORDER BY (cluster, class, member, at)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS sync_histograms_10s ON CLUSTER 'etcdmon' AS sync_histograms_10s_local
ENGINE = Distributed('etcdmon', currentDatabase(), 'sync_histograms_10s_local', cityHash64(cluster, member));

CREATE TABLE IF NOT EXISTS sync_histograms_1m_local ON CLUSTER 'etcdmon' AS sync_histograms_10s_local ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}', version)
PARTITION BY toMonday(at)
ORDER BY (cluster, class, member, at)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS sync_histograms_1m ON CLUSTER 'etcdmon' AS sync_histograms_1m_local
ENGINE = Distributed('etcdmon', currentDatabase(), 'sync_histograms_1m_local', cityHash64(cluster, member));

CREATE TABLE IF NOT EXISTS sync_histograms_1h_local ON CLUSTER 'etcdmon' AS sync_histograms_10s_local ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}', version)
PARTITION BY toYYYYMM(at)
ORDER BY (cluster, class, member, at)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS sync_histograms_1h ON CLUSTER 'etcdmon' AS sync_histograms_1h_local
ENGINE = Distributed('etcdmon', currentDatabase(), 'sync_histograms_1h_local', cityHash64(cluster, member));

CREATE TABLE IF NOT EXISTS writes_10s_local ON CLUSTER 'etcdmon' (
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
) ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}', version)
PARTITION BY toDate(at)
ORDER BY (cluster, class, member, at)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS writes_10s ON CLUSTER 'etcdmon' AS writes_10s_local
ENGINE = Distributed('etcdmon', currentDatabase(), 'writes_10s_local', cityHash64(cluster, member));

CREATE TABLE IF NOT EXISTS writes_1m_local ON CLUSTER 'etcdmon' AS writes_10s_local ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}', version)
PARTITION BY toMonday(at)
ORDER BY (cluster, class, member, at)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS writes_1m ON CLUSTER 'etcdmon' AS writes_1m_local
ENGINE = Distributed('etcdmon', currentDatabase(), 'writes_1m_local', cityHash64(cluster, member));

CREATE TABLE IF NOT EXISTS writes_1h_local ON CLUSTER 'etcdmon' AS writes_10s_local ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}', version)
PARTITION BY toYYYYMM(at)
ORDER BY (cluster, class, member, at)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS writes_1h ON CLUSTER 'etcdmon' AS writes_1h_local
ENGINE = Distributed('etcdmon', currentDatabase(), 'writes_1h_local', cityHash64(cluster, member));

CREATE TABLE IF NOT EXISTS metrics_10s_local ON CLUSTER 'etcdmon' (
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
) ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}', version)
PARTITION BY toDate(at)
ORDER BY (cluster, name, member, labels, agent, at)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS metrics_10s ON CLUSTER 'etcdmon' AS metrics_10s_local
ENGINE = Distributed('etcdmon', currentDatabase(), 'metrics_10s_local', cityHash64(cluster, member));

CREATE TABLE IF NOT EXISTS metrics_1m_local ON CLUSTER 'etcdmon' AS metrics_10s_local ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}', version)
PARTITION BY toMonday(at)
ORDER BY (cluster, name, member, labels, agent, at)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS metrics_1m ON CLUSTER 'etcdmon' AS metrics_1m_local
ENGINE = Distributed('etcdmon', currentDatabase(), 'metrics_1m_local', cityHash64(cluster, member));

CREATE TABLE IF NOT EXISTS metrics_1h_local ON CLUSTER 'etcdmon' AS metrics_10s_local ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}', version)
PARTITION BY toYYYYMM(at)
ORDER BY (cluster, name, member, labels, agent, at)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS metrics_1h ON CLUSTER 'etcdmon' AS metrics_1h_local
ENGINE = Distributed('etcdmon', currentDatabase(), 'metrics_1h_local', cityHash64(cluster, member));

CREATE TABLE IF NOT EXISTS rollup_progress_local ON CLUSTER 'etcdmon' (
  source LowCardinality(String),
  level  LowCardinality(String),
  done   SimpleAggregateFunction(max, DateTime('UTC'))
) ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}')
ORDER BY (source, level)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS rollup_progress ON CLUSTER 'etcdmon' AS rollup_progress_local
ENGINE = Distributed('etcdmon', currentDatabase(), 'rollup_progress_local', cityHash64(source, level));

CREATE TABLE IF NOT EXISTS rollup_marks_local ON CLUSTER 'etcdmon' (
  source LowCardinality(String),
  minute DateTime('UTC'),
  marked SimpleAggregateFunction(max, UInt64),
  done   SimpleAggregateFunction(max, UInt64)
) ENGINE = ReplicatedAggregatingMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}')
PARTITION BY toYYYYMM(minute)
ORDER BY (source, minute)
TTL minute + toIntervalDay(400)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, ttl_only_drop_parts = 1;

CREATE TABLE IF NOT EXISTS rollup_marks ON CLUSTER 'etcdmon' AS rollup_marks_local
ENGINE = Distributed('etcdmon', currentDatabase(), 'rollup_marks_local', cityHash64(source, minute));

CREATE TABLE IF NOT EXISTS alerts_local ON CLUSTER 'etcdmon' (
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
) ENGINE = ReplicatedMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}')
PARTITION BY toDate(at)
ORDER BY (cluster, rule, member, at)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, replicated_deduplication_window = 1000,
  ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS alerts ON CLUSTER 'etcdmon' AS alerts_local
ENGINE = Distributed('etcdmon', currentDatabase(), 'alerts_local', cityHash64(cluster, member));

CREATE TABLE IF NOT EXISTS diagnoses_local ON CLUSTER 'etcdmon' (
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
) ENGINE = ReplicatedMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}')
PARTITION BY toDate(at)
ORDER BY (cluster, cause, member, at)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, replicated_deduplication_window = 1000,
  ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

CREATE TABLE IF NOT EXISTS diagnoses ON CLUSTER 'etcdmon' AS diagnoses_local
ENGINE = Distributed('etcdmon', currentDatabase(), 'diagnoses_local', cityHash64(cluster, member));

CREATE TABLE IF NOT EXISTS members_local ON CLUSTER 'etcdmon' (
  cluster         LowCardinality(String),
  member          UInt64,
  cluster_name    LowCardinality(String),
  etcd_cluster_id UInt64,
  member_name     LowCardinality(String),
  etcd_version    LowCardinality(String),
  node            LowCardinality(String),
  agent           UUID,
  seen_at         DateTime64(3, 'UTC')
) ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}', seen_at)
ORDER BY (cluster, member)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1;

CREATE TABLE IF NOT EXISTS members ON CLUSTER 'etcdmon' AS members_local
ENGINE = Distributed('etcdmon', currentDatabase(), 'members_local', cityHash64(cluster, member));

ALTER TABLE sync_histograms_local ON CLUSTER 'etcdmon' MODIFY SETTING ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

ALTER TABLE syncs_local ON CLUSTER 'etcdmon' MODIFY SETTING ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

ALTER TABLE writes_local ON CLUSTER 'etcdmon' MODIFY SETTING ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

ALTER TABLE metrics_local ON CLUSTER 'etcdmon' MODIFY SETTING ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

ALTER TABLE events_local ON CLUSTER 'etcdmon' MODIFY SETTING ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

ALTER TABLE ledger_local ON CLUSTER 'etcdmon' MODIFY SETTING ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

ALTER TABLE autopsies_local ON CLUSTER 'etcdmon' MODIFY SETTING ttl_only_drop_parts = 1, materialize_ttl_recalculate_only = 1;

ALTER TABLE sync_histograms_local ON CLUSTER 'etcdmon' MODIFY COMMENT 'Every sync (fsync, fdatasync) that returned: a row per member, file class and second in which one ended.';

ALTER TABLE sync_histograms_local ON CLUSTER 'etcdmon'
  COMMENT COLUMN agent 'the agent, a random id that it keeps in its state directory',
  COMMENT COLUMN epoch 'the agent process that made the batch',
  COMMENT COLUMN sequence 'number of the batch within the epoch',
  COMMENT COLUMN row 'position of the row among the batch\'s rows for this table',
  COMMENT COLUMN cluster 'UUID of the cluster in the aggregator\'s registry; the nil UUID for facts of the node itself and for members whose cluster is not known yet',
  COMMENT COLUMN member 'etcd\'s member id, which etcd prints as lower(hex(member)); 0 = the node',
  COMMENT COLUMN at 'begin of the second',
  COMMENT COLUMN class 'file class: wal, backend, snapshot, defrag, directory, other; unknown = of a later version',
  COMMENT COLUMN hook 'which hook saw them: filesystem or syscall',
  COMMENT COLUMN buckets 'latencies: bucket number → count, in the buckets of etcdmon-histogram (90 a decade from 100 ns to 100 s; bucket 1 + 90·d + m begins at (10 + m)·10^(d+1) ns); they merge by addition (sumMap)',
  COMMENT COLUMN count 'syncs; the sum of the buckets',
  COMMENT COLUMN sum_ns 'sum of their latencies, exact',
  COMMENT COLUMN errors 'syncs among them that returned an error',
  COMMENT COLUMN run_delay_ns 'time in them that their threads waited for a CPU';

ALTER TABLE syncs_local ON CLUSTER 'etcdmon' MODIFY COMMENT 'Slow syncs and a stated sample of the others, a row each; what the flight recorder kept as well.';

ALTER TABLE syncs_local ON CLUSTER 'etcdmon'
  COMMENT COLUMN agent 'the agent, a random id that it keeps in its state directory',
  COMMENT COLUMN epoch 'the agent process that made the batch',
  COMMENT COLUMN sequence 'number of the batch within the epoch',
  COMMENT COLUMN row 'position of the row among the batch\'s rows for this table',
  COMMENT COLUMN cluster 'UUID of the cluster in the aggregator\'s registry; the nil UUID for facts of the node itself and for members whose cluster is not known yet',
  COMMENT COLUMN member 'etcd\'s member id, which etcd prints as lower(hex(member)); 0 = the node',
  COMMENT COLUMN at 'when it began',
  COMMENT COLUMN class 'file class: wal, backend, snapshot, defrag, directory, other; unknown = of a later version',
  COMMENT COLUMN boot 'boot of the kernel',
  COMMENT COLUMN start_mono_ns 'begin on the kernel\'s monotonic clock',
  COMMENT COLUMN latency_ns 'how long it took',
  COMMENT COLUMN pid 'process',
  COMMENT COLUMN thread_id 'kernel thread',
  COMMENT COLUMN run_delay_ns 'how long of that the thread waited for a CPU',
  COMMENT COLUMN written_bytes 'written to the file since its last sync',
  COMMENT COLUMN inode 'the file',
  COMMENT COLUMN device 'its device: (major << 20) | minor',
  COMMENT COLUMN result '0 or a negative errno',
  COMMENT COLUMN reason 'slow, sample or flight',
  COMMENT COLUMN sample_every 'the sample holds one in so many of the others',
  COMMENT COLUMN slow_ns 'slow means at least this long';

ALTER TABLE writes_local ON CLUSTER 'etcdmon' MODIFY COMMENT 'Writes: a row per member, file class and second with some. written_bytes is complete; calls, buckets, sum_ns and sync_file_range_calls cover the part of the second in which calls were seen.';

ALTER TABLE writes_local ON CLUSTER 'etcdmon'
  COMMENT COLUMN agent 'the agent, a random id that it keeps in its state directory',
  COMMENT COLUMN epoch 'the agent process that made the batch',
  COMMENT COLUMN sequence 'number of the batch within the epoch',
  COMMENT COLUMN row 'position of the row among the batch\'s rows for this table',
  COMMENT COLUMN cluster 'UUID of the cluster in the aggregator\'s registry; the nil UUID for facts of the node itself and for members whose cluster is not known yet',
  COMMENT COLUMN member 'etcd\'s member id, which etcd prints as lower(hex(member)); 0 = the node',
  COMMENT COLUMN at 'begin of the second',
  COMMENT COLUMN class 'file class: wal, backend, snapshot, defrag, directory, other; unknown = of a later version',
  COMMENT COLUMN written_bytes 'bytes written',
  COMMENT COLUMN observed_ns 'for how long of the second calls were seen',
  COMMENT COLUMN calls 'calls seen',
  COMMENT COLUMN buckets 'latencies: bucket number → count, in the buckets of etcdmon-histogram (90 a decade from 100 ns to 100 s; bucket 1 + 90·d + m begins at (10 + m)·10^(d+1) ns); they merge by addition (sumMap)',
  COMMENT COLUMN sum_ns 'sum of their latencies, exact',
  COMMENT COLUMN sync_file_range_calls 'calls of sync_file_range';

ALTER TABLE metrics_local ON CLUSTER 'etcdmon' MODIFY COMMENT 'Samples of series. A value that did not change is sent again only every 30 s: the last one holds for up to 120 s, and not across a blind interval of the ledger.';

ALTER TABLE metrics_local ON CLUSTER 'etcdmon'
  COMMENT COLUMN agent 'the agent, a random id that it keeps in its state directory',
  COMMENT COLUMN epoch 'the agent process that made the batch',
  COMMENT COLUMN sequence 'number of the batch within the epoch',
  COMMENT COLUMN row 'position of the row among the batch\'s rows for this table',
  COMMENT COLUMN cluster 'UUID of the cluster in the aggregator\'s registry; the nil UUID for facts of the node itself and for members whose cluster is not known yet',
  COMMENT COLUMN member 'etcd\'s member id, which etcd prints as lower(hex(member)); 0 = the node',
  COMMENT COLUMN at 'when it was taken',
  COMMENT COLUMN name 'Prometheus name with its unit',
  COMMENT COLUMN labels 'a JSON object with sorted names, so that a series always has the same text',
  COMMENT COLUMN type 'counter or gauge',
  COMMENT COLUMN value 'the value';

ALTER TABLE events_local ON CLUSTER 'etcdmon' MODIFY COMMENT 'Things that happened.';

ALTER TABLE events_local ON CLUSTER 'etcdmon'
  COMMENT COLUMN agent 'the agent, a random id that it keeps in its state directory',
  COMMENT COLUMN epoch 'the agent process that made the batch',
  COMMENT COLUMN sequence 'number of the batch within the epoch',
  COMMENT COLUMN row 'position of the row among the batch\'s rows for this table',
  COMMENT COLUMN cluster 'UUID of the cluster in the aggregator\'s registry; the nil UUID for facts of the node itself and for members whose cluster is not known yet',
  COMMENT COLUMN member 'etcd\'s member id, which etcd prints as lower(hex(member)); 0 = the node',
  COMMENT COLUMN at 'when',
  COMMENT COLUMN kind 'member.started, capability.degraded, clock.step …',
  COMMENT COLUMN details 'a JSON object';

ALTER TABLE ledger_local ON CLUSTER 'etcdmon' MODIFY COMMENT 'The account of every stream of facts: for each agent, stream, member and minute produced = stored + dropped + blind, where stored is counted in the tables themselves. Rows with numbers from 2^31 on are the aggregator\'s: what ClickHouse refused for good.';

ALTER TABLE ledger_local ON CLUSTER 'etcdmon'
  COMMENT COLUMN agent 'the agent, a random id that it keeps in its state directory',
  COMMENT COLUMN epoch 'the agent process that made the batch',
  COMMENT COLUMN sequence 'number of the batch within the epoch',
  COMMENT COLUMN row 'position of the row among the batch\'s rows for this table',
  COMMENT COLUMN cluster 'UUID of the cluster in the aggregator\'s registry; the nil UUID for facts of the node itself and for members whose cluster is not known yet',
  COMMENT COLUMN member 'etcd\'s member id, which etcd prints as lower(hex(member)); 0 = the node',
  COMMENT COLUMN at 'begin of the minute',
  COMMENT COLUMN stream 'sync (counted in sync_histograms), sync_row (rows of syncs), write, metric, event, log, autopsy',
  COMMENT COLUMN kind 'produced, dropped or blind',
  COMMENT COLUMN reason 'why something was dropped (ring_full, spool_full, refused, unstorable …), or why nothing was seen (agent_down, attach)',
  COMMENT COLUMN count 'how many; counts of different batches add up',
  COMMENT COLUMN blind_from 'for blind: begin of the interval in which nothing was seen; else 1970-01-01',
  COMMENT COLUMN blind_to 'its end';

ALTER TABLE autopsies_local ON CLUSTER 'etcdmon' MODIFY COMMENT 'Slow syncs that were examined: where the time of each went, and who else used its disks. Slow is several times the median of the member and class in the last minutes, at least 10 ms and at most 50 ms. No more than 20 a second and agent are examined; the rest is in the ledger (stream autopsy, rate_limit).';

ALTER TABLE autopsies_local ON CLUSTER 'etcdmon'
  COMMENT COLUMN agent 'the agent, a random id that it keeps in its state directory',
  COMMENT COLUMN epoch 'the agent process that made the batch',
  COMMENT COLUMN sequence 'number of the batch within the epoch',
  COMMENT COLUMN row 'position of the row among the batch\'s rows for this table',
  COMMENT COLUMN cluster 'UUID of the cluster in the aggregator\'s registry; the nil UUID for facts of the node itself and for members whose cluster is not known yet',
  COMMENT COLUMN member 'etcd\'s member id, which etcd prints as lower(hex(member)); 0 = the node',
  COMMENT COLUMN at 'when it began',
  COMMENT COLUMN class 'file class: wal, backend, snapshot, defrag, directory, other; unknown = of a later version',
  COMMENT COLUMN boot 'boot of the kernel; with start_mono_ns and thread_id it names the same sync in syncs',
  COMMENT COLUMN start_mono_ns 'begin on the kernel\'s monotonic clock',
  COMMENT COLUMN latency_ns 'how long it took',
  COMMENT COLUMN pid 'process',
  COMMENT COLUMN thread_id 'kernel thread',
  COMMENT COLUMN inode 'the file',
  COMMENT COLUMN device 'its device: (major << 20) | minor',
  COMMENT COLUMN threshold_ns 'slow meant at least this',
  COMMENT COLUMN on_cpu_ns 'the thread ran',
  COMMENT COLUMN run_queue_ns 'it could have run, but had no CPU',
  COMMENT COLUMN journal_ns 'the filesystem\'s journal committed',
  COMMENT COLUMN queue_ns 'a request for the file waited for the device',
  COMMENT COLUMN device_ns 'the device worked on it',
  COMMENT COLUMN flush_ns 'the device wrote its cache to its medium',
  COMMENT COLUMN throttle_ns 'the cgroup\'s IO limit held the file\'s pages back',
  COMMENT COLUMN steal_ns 'the hypervisor gave the CPU to others',
  COMMENT COLUMN unexplained_ns 'no evidence; all of these together are latency_ns, exactly',
  COMMENT COLUMN journal_device_ns 'of journal_ns: its requests on the device',
  COMMENT COLUMN journal_queue_ns 'of journal_ns: its requests waiting for the device',
  COMMENT COLUMN journal_flush_ns 'of journal_ns: its flushes',
  COMMENT COLUMN cpu_quota_ns 'of run_queue_ns: the cgroup\'s CPU quota was used up',
  COMMENT COLUMN wait_ns 'time in which it waited for disks, the journal\'s requests included: what culprits share',
  COMMENT COLUMN gaps 'what could not be seen, with commas: requests, commits, overwritten',
  COMMENT COLUMN culprits 'JSON array of who used its disks, the worst first, at most 8: origin (process, itself, writeback, journal), certainty (high, medium, low), process_id, comm, process, cgroup, container_id, pod_uid, inode, device, requests, bytes, syncs, wait_ns';

ALTER TABLE alerts_local ON CLUSTER 'etcdmon' MODIFY COMMENT 'What became of alerts, a row for each change of state. The aggregator is the agent.';

ALTER TABLE alerts_local ON CLUSTER 'etcdmon'
  COMMENT COLUMN agent 'the agent, a random id that it keeps in its state directory',
  COMMENT COLUMN epoch 'the agent process that made the batch',
  COMMENT COLUMN sequence 'number of the batch within the epoch',
  COMMENT COLUMN row 'position of the row among the batch\'s rows for this table',
  COMMENT COLUMN cluster 'UUID of the cluster; the nil UUID for alerts of none',
  COMMENT COLUMN member 'etcd\'s member id; 0 for alerts of no member',
  COMMENT COLUMN at 'when',
  COMMENT COLUMN fingerprint 'identity of the alert: its labels',
  COMMENT COLUMN rule 'name of the rule',
  COMMENT COLUMN severity 'critical, warning or info',
  COMMENT COLUMN state 'pending, firing or resolved',
  COMMENT COLUMN value 'value of the last breach, in the unit of the rule',
  COMMENT COLUMN started_at 'first breach',
  COMMENT COLUMN summary 'in a sentence',
  COMMENT COLUMN labels 'a JSON object',
  COMMENT COLUMN annotations 'a JSON object: evidence, next step, diagnosis';

ALTER TABLE diagnoses_local ON CLUSTER 'etcdmon' MODIFY COMMENT 'What became of diagnoses, a row each time one is opened, is surer or blames somebody else, and is closed. The aggregator is the agent.';

ALTER TABLE diagnoses_local ON CLUSTER 'etcdmon'
  COMMENT COLUMN agent 'the agent, a random id that it keeps in its state directory',
  COMMENT COLUMN epoch 'the agent process that made the batch',
  COMMENT COLUMN sequence 'number of the batch within the epoch',
  COMMENT COLUMN row 'position of the row among the batch\'s rows for this table',
  COMMENT COLUMN cluster 'UUID of the cluster in the aggregator\'s registry; the nil UUID for facts of the node itself and for members whose cluster is not known yet',
  COMMENT COLUMN member 'etcd\'s member id, which etcd prints as lower(hex(member)); 0 = the node',
  COMMENT COLUMN at 'when',
  COMMENT COLUMN incident 'id of the diagnosis',
  COMMENT COLUMN state 'opened, updated or closed',
  COMMENT COLUMN cause 'what made the member slow',
  COMMENT COLUMN confidence 'high, medium or low',
  COMMENT COLUMN share 'its part of the harm, 0 to 1',
  COMMENT COLUMN onset_at 'when it began, as far as was seen',
  COMMENT COLUMN culprit 'who did it, in words; empty where nobody did, or nobody is known',
  COMMENT COLUMN summary 'in a sentence',
  COMMENT COLUMN next_step 'what a person should do',
  COMMENT COLUMN evidence 'a JSON object: culprit, culprits, evidence, ruled_out';

ALTER TABLE members_local ON CLUSTER 'etcdmon' MODIFY COMMENT 'Clusters and members by name, as the aggregator last saw them. Read it with FINAL.';

ALTER TABLE members_local ON CLUSTER 'etcdmon'
  COMMENT COLUMN cluster 'UUID of the cluster',
  COMMENT COLUMN member 'etcd\'s member id',
  COMMENT COLUMN cluster_name 'name of the cluster, for people',
  COMMENT COLUMN etcd_cluster_id 'etcd\'s own cluster id',
  COMMENT COLUMN member_name 'name of the member',
  COMMENT COLUMN etcd_version 'version of etcd; empty while unknown',
  COMMENT COLUMN node 'host name of its agent; empty without one',
  COMMENT COLUMN agent 'its agent; nil without one',
  COMMENT COLUMN seen_at 'when this was written';

ALTER TABLE rollup_progress_local ON CLUSTER 'etcdmon' MODIFY COMMENT 'How far the sums are: everything before `done` was recomputed.';

ALTER TABLE rollup_progress_local ON CLUSTER 'etcdmon'
  COMMENT COLUMN source 'raw table',
  COMMENT COLUMN level 'minutes (10 s and a minute) or hours',
  COMMENT COLUMN done 'everything before was recomputed';

ALTER TABLE rollup_marks_local ON CLUSTER 'etcdmon' MODIFY COMMENT 'Minutes for which rows came late: to be recomputed while marked > done.';

ALTER TABLE rollup_marks_local ON CLUSTER 'etcdmon'
  COMMENT COLUMN source 'raw table',
  COMMENT COLUMN minute 'begin of the minute',
  COMMENT COLUMN marked 'number of the newest mark',
  COMMENT COLUMN done 'number of the newest mark that was obeyed';

ALTER TABLE sync_histograms_10s_local ON CLUSTER 'etcdmon' MODIFY COMMENT 'sync_histograms over 10 seconds. Recomputed whenever its rows change: read it with FINAL.';

ALTER TABLE sync_histograms_10s_local ON CLUSTER 'etcdmon'
  COMMENT COLUMN cluster 'UUID of the cluster in the aggregator\'s registry; the nil UUID for facts of the node itself and for members whose cluster is not known yet',
  COMMENT COLUMN member 'etcd\'s member id, which etcd prints as lower(hex(member)); 0 = the node',
  COMMENT COLUMN class 'file class: wal, backend, snapshot, defrag, directory, other; unknown = of a later version',
  COMMENT COLUMN at 'begin of the bucket of 10 seconds',
  COMMENT COLUMN buckets 'latencies: bucket number → count, in the buckets of etcdmon-histogram (90 a decade from 100 ns to 100 s; bucket 1 + 90·d + m begins at (10 + m)·10^(d+1) ns); they merge by addition (sumMap)',
  COMMENT COLUMN count 'syncs',
  COMMENT COLUMN sum_ns 'sum of their latencies, exact',
  COMMENT COLUMN errors 'syncs among them that returned an error',
  COMMENT COLUMN run_delay_ns 'time in them that their threads waited for a CPU',
  COMMENT COLUMN version 'raw rows behind this one; of two rows of a bucket the one with more is right';

ALTER TABLE sync_histograms_1m_local ON CLUSTER 'etcdmon' MODIFY COMMENT 'sync_histograms over a minute. Recomputed whenever its rows change: read it with FINAL.';

ALTER TABLE sync_histograms_1m_local ON CLUSTER 'etcdmon'
  COMMENT COLUMN cluster 'UUID of the cluster in the aggregator\'s registry; the nil UUID for facts of the node itself and for members whose cluster is not known yet',
  COMMENT COLUMN member 'etcd\'s member id, which etcd prints as lower(hex(member)); 0 = the node',
  COMMENT COLUMN class 'file class: wal, backend, snapshot, defrag, directory, other; unknown = of a later version',
  COMMENT COLUMN at 'begin of the bucket of a minute',
  COMMENT COLUMN buckets 'latencies: bucket number → count, in the buckets of etcdmon-histogram (90 a decade from 100 ns to 100 s; bucket 1 + 90·d + m begins at (10 + m)·10^(d+1) ns); they merge by addition (sumMap)',
  COMMENT COLUMN count 'syncs',
  COMMENT COLUMN sum_ns 'sum of their latencies, exact',
  COMMENT COLUMN errors 'syncs among them that returned an error',
  COMMENT COLUMN run_delay_ns 'time in them that their threads waited for a CPU',
  COMMENT COLUMN version 'raw rows behind this one; of two rows of a bucket the one with more is right';

ALTER TABLE sync_histograms_1h_local ON CLUSTER 'etcdmon' MODIFY COMMENT 'sync_histograms over an hour. Recomputed whenever its rows change: read it with FINAL.';

ALTER TABLE sync_histograms_1h_local ON CLUSTER 'etcdmon'
  COMMENT COLUMN cluster 'UUID of the cluster in the aggregator\'s registry; the nil UUID for facts of the node itself and for members whose cluster is not known yet',
  COMMENT COLUMN member 'etcd\'s member id, which etcd prints as lower(hex(member)); 0 = the node',
  COMMENT COLUMN class 'file class: wal, backend, snapshot, defrag, directory, other; unknown = of a later version',
  COMMENT COLUMN at 'begin of the bucket of an hour',
  COMMENT COLUMN buckets 'latencies: bucket number → count, in the buckets of etcdmon-histogram (90 a decade from 100 ns to 100 s; bucket 1 + 90·d + m begins at (10 + m)·10^(d+1) ns); they merge by addition (sumMap)',
  COMMENT COLUMN count 'syncs',
  COMMENT COLUMN sum_ns 'sum of their latencies, exact',
  COMMENT COLUMN errors 'syncs among them that returned an error',
  COMMENT COLUMN run_delay_ns 'time in them that their threads waited for a CPU',
  COMMENT COLUMN version 'raw rows behind this one; of two rows of a bucket the one with more is right';

ALTER TABLE writes_10s_local ON CLUSTER 'etcdmon' MODIFY COMMENT 'writes over 10 seconds. Recomputed whenever its rows change: read it with FINAL.';

ALTER TABLE writes_10s_local ON CLUSTER 'etcdmon'
  COMMENT COLUMN cluster 'UUID of the cluster in the aggregator\'s registry; the nil UUID for facts of the node itself and for members whose cluster is not known yet',
  COMMENT COLUMN member 'etcd\'s member id, which etcd prints as lower(hex(member)); 0 = the node',
  COMMENT COLUMN class 'file class: wal, backend, snapshot, defrag, directory, other; unknown = of a later version',
  COMMENT COLUMN at 'begin of the bucket of 10 seconds',
  COMMENT COLUMN written_bytes 'bytes written',
  COMMENT COLUMN observed_ns 'for how long calls were seen',
  COMMENT COLUMN calls 'calls seen',
  COMMENT COLUMN buckets 'latencies: bucket number → count, in the buckets of etcdmon-histogram (90 a decade from 100 ns to 100 s; bucket 1 + 90·d + m begins at (10 + m)·10^(d+1) ns); they merge by addition (sumMap)',
  COMMENT COLUMN sum_ns 'sum of their latencies, exact',
  COMMENT COLUMN sync_file_range_calls 'calls of sync_file_range',
  COMMENT COLUMN version 'raw rows behind this one; of two rows of a bucket the one with more is right';

ALTER TABLE writes_1m_local ON CLUSTER 'etcdmon' MODIFY COMMENT 'writes over a minute. Recomputed whenever its rows change: read it with FINAL.';

ALTER TABLE writes_1m_local ON CLUSTER 'etcdmon'
  COMMENT COLUMN cluster 'UUID of the cluster in the aggregator\'s registry; the nil UUID for facts of the node itself and for members whose cluster is not known yet',
  COMMENT COLUMN member 'etcd\'s member id, which etcd prints as lower(hex(member)); 0 = the node',
  COMMENT COLUMN class 'file class: wal, backend, snapshot, defrag, directory, other; unknown = of a later version',
  COMMENT COLUMN at 'begin of the bucket of a minute',
  COMMENT COLUMN written_bytes 'bytes written',
  COMMENT COLUMN observed_ns 'for how long calls were seen',
  COMMENT COLUMN calls 'calls seen',
  COMMENT COLUMN buckets 'latencies: bucket number → count, in the buckets of etcdmon-histogram (90 a decade from 100 ns to 100 s; bucket 1 + 90·d + m begins at (10 + m)·10^(d+1) ns); they merge by addition (sumMap)',
  COMMENT COLUMN sum_ns 'sum of their latencies, exact',
  COMMENT COLUMN sync_file_range_calls 'calls of sync_file_range',
  COMMENT COLUMN version 'raw rows behind this one; of two rows of a bucket the one with more is right';

ALTER TABLE writes_1h_local ON CLUSTER 'etcdmon' MODIFY COMMENT 'writes over an hour. Recomputed whenever its rows change: read it with FINAL.';

ALTER TABLE writes_1h_local ON CLUSTER 'etcdmon'
  COMMENT COLUMN cluster 'UUID of the cluster in the aggregator\'s registry; the nil UUID for facts of the node itself and for members whose cluster is not known yet',
  COMMENT COLUMN member 'etcd\'s member id, which etcd prints as lower(hex(member)); 0 = the node',
  COMMENT COLUMN class 'file class: wal, backend, snapshot, defrag, directory, other; unknown = of a later version',
  COMMENT COLUMN at 'begin of the bucket of an hour',
  COMMENT COLUMN written_bytes 'bytes written',
  COMMENT COLUMN observed_ns 'for how long calls were seen',
  COMMENT COLUMN calls 'calls seen',
  COMMENT COLUMN buckets 'latencies: bucket number → count, in the buckets of etcdmon-histogram (90 a decade from 100 ns to 100 s; bucket 1 + 90·d + m begins at (10 + m)·10^(d+1) ns); they merge by addition (sumMap)',
  COMMENT COLUMN sum_ns 'sum of their latencies, exact',
  COMMENT COLUMN sync_file_range_calls 'calls of sync_file_range',
  COMMENT COLUMN version 'raw rows behind this one; of two rows of a bucket the one with more is right';

ALTER TABLE metrics_10s_local ON CLUSTER 'etcdmon' MODIFY COMMENT 'metrics over 10 seconds. Recomputed whenever its rows change: read it with FINAL.';

ALTER TABLE metrics_10s_local ON CLUSTER 'etcdmon'
  COMMENT COLUMN cluster 'UUID of the cluster in the aggregator\'s registry; the nil UUID for facts of the node itself and for members whose cluster is not known yet',
  COMMENT COLUMN name 'Prometheus name with its unit',
  COMMENT COLUMN member 'etcd\'s member id, which etcd prints as lower(hex(member)); 0 = the node',
  COMMENT COLUMN labels 'a JSON object with sorted names',
  COMMENT COLUMN agent 'the agent, a random id that it keeps in its state directory',
  COMMENT COLUMN at 'begin of the bucket of 10 seconds',
  COMMENT COLUMN type 'counter or gauge',
  COMMENT COLUMN samples 'samples with a finite value',
  COMMENT COLUMN first 'value of the first sample',
  COMMENT COLUMN last 'value of the last',
  COMMENT COLUMN min 'least value',
  COMMENT COLUMN max 'greatest value',
  COMMENT COLUMN sum 'sum of the values',
  COMMENT COLUMN increase 'counters: growth from sample to sample within the bucket, after a reset what came since; 0 for gauges',
  COMMENT COLUMN first_at 'when the first sample was taken',
  COMMENT COLUMN last_at 'when the last one was',
  COMMENT COLUMN version 'raw rows behind this one; of two rows of a bucket the one with more is right';

ALTER TABLE metrics_1m_local ON CLUSTER 'etcdmon' MODIFY COMMENT 'metrics over a minute. Recomputed whenever its rows change: read it with FINAL.';

ALTER TABLE metrics_1m_local ON CLUSTER 'etcdmon'
  COMMENT COLUMN cluster 'UUID of the cluster in the aggregator\'s registry; the nil UUID for facts of the node itself and for members whose cluster is not known yet',
  COMMENT COLUMN name 'Prometheus name with its unit',
  COMMENT COLUMN member 'etcd\'s member id, which etcd prints as lower(hex(member)); 0 = the node',
  COMMENT COLUMN labels 'a JSON object with sorted names',
  COMMENT COLUMN agent 'the agent, a random id that it keeps in its state directory',
  COMMENT COLUMN at 'begin of the bucket of a minute',
  COMMENT COLUMN type 'counter or gauge',
  COMMENT COLUMN samples 'samples with a finite value',
  COMMENT COLUMN first 'value of the first sample',
  COMMENT COLUMN last 'value of the last',
  COMMENT COLUMN min 'least value',
  COMMENT COLUMN max 'greatest value',
  COMMENT COLUMN sum 'sum of the values',
  COMMENT COLUMN increase 'counters: growth from sample to sample within the bucket, after a reset what came since; 0 for gauges',
  COMMENT COLUMN first_at 'when the first sample was taken',
  COMMENT COLUMN last_at 'when the last one was',
  COMMENT COLUMN version 'raw rows behind this one; of two rows of a bucket the one with more is right';

ALTER TABLE metrics_1h_local ON CLUSTER 'etcdmon' MODIFY COMMENT 'metrics over an hour. Recomputed whenever its rows change: read it with FINAL.';

ALTER TABLE metrics_1h_local ON CLUSTER 'etcdmon'
  COMMENT COLUMN cluster 'UUID of the cluster in the aggregator\'s registry; the nil UUID for facts of the node itself and for members whose cluster is not known yet',
  COMMENT COLUMN name 'Prometheus name with its unit',
  COMMENT COLUMN member 'etcd\'s member id, which etcd prints as lower(hex(member)); 0 = the node',
  COMMENT COLUMN labels 'a JSON object with sorted names',
  COMMENT COLUMN agent 'the agent, a random id that it keeps in its state directory',
  COMMENT COLUMN at 'begin of the bucket of an hour',
  COMMENT COLUMN type 'counter or gauge',
  COMMENT COLUMN samples 'samples with a finite value',
  COMMENT COLUMN first 'value of the first sample',
  COMMENT COLUMN last 'value of the last',
  COMMENT COLUMN min 'least value',
  COMMENT COLUMN max 'greatest value',
  COMMENT COLUMN sum 'sum of the values',
  COMMENT COLUMN increase 'counters: growth from sample to sample within the bucket, after a reset what came since; 0 for gauges',
  COMMENT COLUMN first_at 'when the first sample was taken',
  COMMENT COLUMN last_at 'when the last one was',
  COMMENT COLUMN version 'raw rows behind this one; of two rows of a bucket the one with more is right';

CREATE OR REPLACE VIEW v_members ON CLUSTER 'etcdmon' AS
SELECT
  m.cluster_name AS cluster, m.member_name AS member, leftPad(lower(hex(m.member)), 16, '0') AS member_id, m.etcd_version AS etcd_version,
  m.node AS node, leftPad(lower(hex(m.etcd_cluster_id)), 16, '0') AS etcd_cluster_id, m.agent AS agent, m.seen_at AS seen_at,
  m.cluster AS cluster_id
FROM members AS m FINAL
COMMENT 'Members of all clusters, as the aggregator last saw them.';

CREATE OR REPLACE VIEW v_syncs ON CLUSTER 'etcdmon' AS
SELECT
  f.at AS at, if(m.cluster_name = '', toString(f.cluster), toString(m.cluster_name)) AS cluster, m.member_name AS member, f.class AS class,
  f.latency_ns / 1e6 AS latency_ms, f.run_delay_ns / 1e6 AS run_delay_ms, f.written_bytes AS written_bytes, f.result AS result, f.reason AS reason,
  f.sample_every AS sample_every, f.pid AS pid, f.thread_id AS thread_id, leftPad(lower(hex(f.member)), 16, '0') AS member_id, f.cluster AS cluster_id
FROM syncs AS f
LEFT ANY JOIN (SELECT cluster, member, cluster_name, member_name FROM members FINAL) AS m ON f.cluster = m.cluster AND f.member = m.member
COMMENT 'Slow syncs and a sample of the others, a row each.';

CREATE OR REPLACE VIEW v_slow_syncs ON CLUSTER 'etcdmon' AS
SELECT
  f.at AS at, if(m.cluster_name = '', toString(f.cluster), toString(m.cluster_name)) AS cluster, m.member_name AS member, f.class AS class,
  f.latency_ns / 1e6 AS latency_ms, f.on_cpu_ns / 1e6 AS on_cpu_ms, f.run_queue_ns / 1e6 AS run_queue_ms, f.journal_ns / 1e6 AS journal_ms,
  f.queue_ns / 1e6 AS queue_ms, f.device_ns / 1e6 AS device_ms, f.flush_ns / 1e6 AS flush_ms, f.throttle_ns / 1e6 AS throttle_ms,
  f.steal_ns / 1e6 AS steal_ms, f.unexplained_ns / 1e6 AS unexplained_ms, JSONExtractString(f.culprits, 1, 'process') AS culprit,
  JSONExtractString(f.culprits, 1, 'cgroup') AS culprit_cgroup, JSONExtractUInt(f.culprits, 1, 'wait_ns') / 1e6 AS culprit_ms, f.gaps AS gaps,
  f.culprits AS culprits, leftPad(lower(hex(f.member)), 16, '0') AS member_id, f.cluster AS cluster_id
FROM autopsies AS f
LEFT ANY JOIN (SELECT cluster, member, cluster_name, member_name FROM members FINAL) AS m ON f.cluster = m.cluster AND f.member = m.member
COMMENT 'Slow syncs that were examined: where their time went, and who else used the disk.';

CREATE OR REPLACE VIEW v_latency ON CLUSTER 'etcdmon' AS
WITH
  arrayMap(share -> arrayFirstIndex(seen -> seen >= share * f.count, arrayCumSum(mapValues(f.buckets))), [0.5, 0.95, 0.99, 1]) AS places,
  arrayMap(bucket -> if(bucket = 0, 50, if(bucket > 810, 1e11, (10.5 + (bucket - 1) % 90) * exp10(intDiv(bucket - 1, 90) + 1))) / 1e6,
    arrayMap(place -> mapKeys(f.buckets)[place], places)) AS values
SELECT
  f.at AS at, if(m.cluster_name = '', toString(f.cluster), toString(m.cluster_name)) AS cluster, m.member_name AS member, f.class AS class,
  f.count AS syncs, f.errors AS errors, f.sum_ns / f.count / 1e6 AS mean_ms,
  values[1] AS p50_ms, values[2] AS p95_ms, values[3] AS p99_ms, values[4] AS max_ms,
  leftPad(lower(hex(f.member)), 16, '0') AS member_id, f.cluster AS cluster_id
FROM (SELECT cluster, member, class, at, buckets, count, sum_ns, errors FROM sync_histograms_1m FINAL) AS f
LEFT ANY JOIN (SELECT cluster, member, cluster_name, member_name FROM members FINAL) AS m ON f.cluster = m.cluster AND f.member = m.member
COMMENT 'Latency of syncs by the minute. Percentiles are midpoints of buckets, at most 5 % off; those of several rows must not be averaged.';

CREATE OR REPLACE VIEW v_metrics ON CLUSTER 'etcdmon' AS
SELECT
  f.at AS at, if(m.cluster_name = '', toString(f.cluster), toString(m.cluster_name)) AS cluster, m.member_name AS member, f.name AS name, f.labels AS labels,
  f.type AS type, f.value AS value, f.agent AS agent, leftPad(lower(hex(f.member)), 16, '0') AS member_id, f.cluster AS cluster_id
FROM metrics AS f
LEFT ANY JOIN (SELECT cluster, member, cluster_name, member_name FROM members FINAL) AS m ON f.cluster = m.cluster AND f.member = m.member
COMMENT 'Samples of series as they came.';

CREATE OR REPLACE VIEW v_alerts ON CLUSTER 'etcdmon' AS
SELECT
  f.at AS at, if(m.cluster_name = '', toString(f.cluster), toString(m.cluster_name)) AS cluster, m.member_name AS member, f.rule AS rule, f.severity AS severity,
  f.state AS state, f.summary AS summary, f.value AS value, f.started_at AS started_at, f.annotations AS annotations, f.fingerprint AS fingerprint,
  leftPad(lower(hex(f.member)), 16, '0') AS member_id, f.cluster AS cluster_id
FROM alerts AS f
LEFT ANY JOIN (SELECT cluster, member, cluster_name, member_name FROM members FINAL) AS m ON f.cluster = m.cluster AND f.member = m.member
COMMENT 'What became of alerts.';

CREATE OR REPLACE VIEW v_diagnoses ON CLUSTER 'etcdmon' AS
SELECT
  f.at AS at, if(m.cluster_name = '', toString(f.cluster), toString(m.cluster_name)) AS cluster, m.member_name AS member, f.state AS state, f.cause AS cause,
  f.confidence AS confidence, f.share AS share, f.culprit AS culprit, f.summary AS summary, f.next_step AS next_step, f.onset_at AS onset_at,
  f.incident AS incident, leftPad(lower(hex(f.member)), 16, '0') AS member_id, f.cluster AS cluster_id
FROM diagnoses AS f
LEFT ANY JOIN (SELECT cluster, member, cluster_name, member_name FROM members FINAL) AS m ON f.cluster = m.cluster AND f.member = m.member
COMMENT 'What became of diagnoses.';

CREATE OR REPLACE VIEW v_events ON CLUSTER 'etcdmon' AS
SELECT
  f.at AS at, if(m.cluster_name = '', toString(f.cluster), toString(m.cluster_name)) AS cluster, m.member_name AS member, f.kind AS kind, f.details AS details,
  f.agent AS agent, leftPad(lower(hex(f.member)), 16, '0') AS member_id, f.cluster AS cluster_id
FROM events AS f
LEFT ANY JOIN (SELECT cluster, member, cluster_name, member_name FROM members FINAL) AS m ON f.cluster = m.cluster AND f.member = m.member
COMMENT 'Things that happened.';

ALTER TABLE metrics_local ON CLUSTER 'etcdmon'
  MODIFY COLUMN sequence CODEC(Delta(8), ZSTD(3)),
  MODIFY COLUMN row CODEC(Delta(4), ZSTD(3)),
  MODIFY COLUMN cluster CODEC(ZSTD(1)),
  MODIFY COLUMN at CODEC(Delta(8), ZSTD(3)),
  MODIFY COLUMN name CODEC(ZSTD(1)),
  MODIFY COLUMN labels CODEC(ZSTD(1)),
  MODIFY COLUMN type CODEC(ZSTD(1)),
  MODIFY COLUMN value CODEC(Delta(8), ZSTD(3));

ALTER TABLE metrics ON CLUSTER 'etcdmon'
  MODIFY COLUMN sequence CODEC(Delta(8), ZSTD(3)),
  MODIFY COLUMN row CODEC(Delta(4), ZSTD(3)),
  MODIFY COLUMN cluster CODEC(ZSTD(1)),
  MODIFY COLUMN at CODEC(Delta(8), ZSTD(3)),
  MODIFY COLUMN name CODEC(ZSTD(1)),
  MODIFY COLUMN labels CODEC(ZSTD(1)),
  MODIFY COLUMN type CODEC(ZSTD(1)),
  MODIFY COLUMN value CODEC(Delta(8), ZSTD(3));

ALTER TABLE metrics_local ON CLUSTER 'etcdmon' MODIFY SETTING min_compress_block_size = 1048576, max_compress_block_size = 4194304;

ALTER TABLE syncs_local ON CLUSTER 'etcdmon'
  MODIFY COLUMN sequence CODEC(Delta(8), ZSTD(3)),
  MODIFY COLUMN cluster CODEC(ZSTD(1)),
  MODIFY COLUMN at CODEC(T64, ZSTD(1)),
  MODIFY COLUMN class CODEC(ZSTD(1)),
  MODIFY COLUMN start_mono_ns CODEC(T64, ZSTD(1)),
  MODIFY COLUMN latency_ns CODEC(T64, ZSTD(1)),
  MODIFY COLUMN thread_id CODEC(T64, ZSTD(1)),
  MODIFY COLUMN run_delay_ns CODEC(T64, ZSTD(1)),
  MODIFY COLUMN written_bytes CODEC(T64, ZSTD(1)),
  MODIFY COLUMN reason CODEC(ZSTD(1));

ALTER TABLE syncs ON CLUSTER 'etcdmon'
  MODIFY COLUMN sequence CODEC(Delta(8), ZSTD(3)),
  MODIFY COLUMN cluster CODEC(ZSTD(1)),
  MODIFY COLUMN at CODEC(T64, ZSTD(1)),
  MODIFY COLUMN class CODEC(ZSTD(1)),
  MODIFY COLUMN start_mono_ns CODEC(T64, ZSTD(1)),
  MODIFY COLUMN latency_ns CODEC(T64, ZSTD(1)),
  MODIFY COLUMN thread_id CODEC(T64, ZSTD(1)),
  MODIFY COLUMN run_delay_ns CODEC(T64, ZSTD(1)),
  MODIFY COLUMN written_bytes CODEC(T64, ZSTD(1)),
  MODIFY COLUMN reason CODEC(ZSTD(1));

ALTER TABLE syncs_local ON CLUSTER 'etcdmon' MODIFY SETTING min_compress_block_size = 1048576, max_compress_block_size = 4194304;

ALTER TABLE sync_histograms_local ON CLUSTER 'etcdmon'
  MODIFY COLUMN sequence CODEC(Delta(8), ZSTD(3)),
  MODIFY COLUMN cluster CODEC(ZSTD(1)),
  MODIFY COLUMN class CODEC(ZSTD(1)),
  MODIFY COLUMN hook CODEC(ZSTD(1)),
  MODIFY COLUMN buckets CODEC(ZSTD(3)),
  MODIFY COLUMN count CODEC(T64, ZSTD(1)),
  MODIFY COLUMN sum_ns CODEC(T64, ZSTD(1)),
  MODIFY COLUMN run_delay_ns CODEC(T64, ZSTD(1));

ALTER TABLE sync_histograms ON CLUSTER 'etcdmon'
  MODIFY COLUMN sequence CODEC(Delta(8), ZSTD(3)),
  MODIFY COLUMN cluster CODEC(ZSTD(1)),
  MODIFY COLUMN class CODEC(ZSTD(1)),
  MODIFY COLUMN hook CODEC(ZSTD(1)),
  MODIFY COLUMN buckets CODEC(ZSTD(3)),
  MODIFY COLUMN count CODEC(T64, ZSTD(1)),
  MODIFY COLUMN sum_ns CODEC(T64, ZSTD(1)),
  MODIFY COLUMN run_delay_ns CODEC(T64, ZSTD(1));

ALTER TABLE writes_local ON CLUSTER 'etcdmon'
  MODIFY COLUMN sequence CODEC(Delta(8), ZSTD(3)),
  MODIFY COLUMN cluster CODEC(ZSTD(1)),
  MODIFY COLUMN class CODEC(ZSTD(1)),
  MODIFY COLUMN buckets CODEC(ZSTD(3)),
  MODIFY COLUMN written_bytes CODEC(T64, ZSTD(1)),
  MODIFY COLUMN calls CODEC(T64, ZSTD(1)),
  MODIFY COLUMN sum_ns CODEC(T64, ZSTD(1));

ALTER TABLE writes ON CLUSTER 'etcdmon'
  MODIFY COLUMN sequence CODEC(Delta(8), ZSTD(3)),
  MODIFY COLUMN cluster CODEC(ZSTD(1)),
  MODIFY COLUMN class CODEC(ZSTD(1)),
  MODIFY COLUMN buckets CODEC(ZSTD(3)),
  MODIFY COLUMN written_bytes CODEC(T64, ZSTD(1)),
  MODIFY COLUMN calls CODEC(T64, ZSTD(1)),
  MODIFY COLUMN sum_ns CODEC(T64, ZSTD(1));

CREATE TABLE IF NOT EXISTS prefix_sizes_local ON CLUSTER 'etcdmon' (
  cluster     LowCardinality(String) COMMENT 'UUID of the cluster in the aggregator\'s registry' CODEC(ZSTD(1)),
  prefix      String COMMENT 'the prefix, or its salted hash where keys are private' CODEC(ZSTD(1)),
  at          DateTime64(9, 'UTC') COMMENT 'when the snapshot was taken' CODEC(Delta(8), ZSTD(1)),
  keys        UInt64 COMMENT 'keys that live below it' CODEC(ZSTD(1)),
  live_bytes  UInt64 COMMENT 'bytes of those keys and their values' CODEC(ZSTD(1)),
  total_bytes UInt64 COMMENT 'bytes of all revisions below it' CODEC(ZSTD(1))
) ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{database}/{table}', '{replica}')
PARTITION BY toMonday(at)
ORDER BY (cluster, prefix, at)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'What prefixes of keys hold, by snapshot. Nothing writes it yet.';

CREATE TABLE IF NOT EXISTS prefix_sizes ON CLUSTER 'etcdmon' AS prefix_sizes_local
ENGINE = Distributed('etcdmon', currentDatabase(), 'prefix_sizes_local', cityHash64(cluster, prefix, at));

