-- Slow syncs that were examined: where their time went, and who else used their disks.
CREATE TABLE IF NOT EXISTS autopsies (
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
) ENGINE = MergeTree
PARTITION BY toDate(at)
ORDER BY (cluster, class, member, at)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1, non_replicated_deduplication_window = 1000;
