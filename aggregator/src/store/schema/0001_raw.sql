-- Raw telemetry. Every row carries its delivery identity (agent, epoch, sequence, row): what a batch has already in a
-- table is asked for by it. One partition a day; a day is written by one insert at a time and dropped as a whole.
CREATE TABLE IF NOT EXISTS sync_histograms (
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
) ENGINE = MergeTree
PARTITION BY toDate(at)
ORDER BY (cluster, class, member, at)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, non_replicated_deduplication_window = 1000;

CREATE TABLE IF NOT EXISTS syncs (
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
) ENGINE = MergeTree
PARTITION BY toDate(at)
ORDER BY (cluster, class, member, at)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, non_replicated_deduplication_window = 1000;

CREATE TABLE IF NOT EXISTS writes (
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
) ENGINE = MergeTree
PARTITION BY toDate(at)
ORDER BY (cluster, class, member, at)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, non_replicated_deduplication_window = 1000;

CREATE TABLE IF NOT EXISTS metrics (
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
) ENGINE = MergeTree
PARTITION BY toDate(at)
ORDER BY (cluster, name, member, labels, at)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, non_replicated_deduplication_window = 1000;

CREATE TABLE IF NOT EXISTS events (
  agent    UUID CODEC(ZSTD(1)),
  epoch    UUID CODEC(ZSTD(1)),
  sequence UInt64 CODEC(Delta(8), ZSTD(1)),
  row      UInt32 CODEC(Delta(4), ZSTD(1)),
  cluster  LowCardinality(String),
  member   UInt64 CODEC(ZSTD(1)),
  at       DateTime64(9, 'UTC') CODEC(Delta(8), ZSTD(1)),
  kind     LowCardinality(String),
  details  String CODEC(ZSTD(1))
) ENGINE = MergeTree
PARTITION BY toDate(at)
ORDER BY (cluster, kind, member, at)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, non_replicated_deduplication_window = 1000;

CREATE TABLE IF NOT EXISTS ledger (
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
) ENGINE = MergeTree
PARTITION BY toDate(at)
ORDER BY (cluster, stream, member, at)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, non_replicated_deduplication_window = 1000;
