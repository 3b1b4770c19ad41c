-- Written by whoever measures a snapshot; the keyspace of a running etcd is never read for it.
CREATE TABLE IF NOT EXISTS prefix_sizes (
  cluster     LowCardinality(String) COMMENT 'UUID of the cluster in the aggregator\'s registry' CODEC(ZSTD(1)),
  prefix      String COMMENT 'the prefix, or its salted hash where keys are private' CODEC(ZSTD(1)),
  at          DateTime64(9, 'UTC') COMMENT 'when the snapshot was taken' CODEC(Delta(8), ZSTD(1)),
  keys        UInt64 COMMENT 'keys that live below it' CODEC(ZSTD(1)),
  live_bytes  UInt64 COMMENT 'bytes of those keys and their values' CODEC(ZSTD(1)),
  total_bytes UInt64 COMMENT 'bytes of all revisions below it' CODEC(ZSTD(1))
) ENGINE = ReplacingMergeTree
PARTITION BY toMonday(at)
ORDER BY (cluster, prefix, at)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'What prefixes of keys hold, by snapshot. Nothing writes it yet.';
