-- Chosen by measurement (docs/storage.md). Samples of a series lie together, so differences are small or the same as those of its neighbours:
-- ZSTD finds that only in whole bytes, which DoubleDelta and Gorilla don't leave. What is random in its low bits (latencies, begins of syncs) is
-- cut to its width by T64. Parts that are there take the new form when they are merged.
ALTER TABLE metrics
  MODIFY COLUMN sequence CODEC(Delta(8), ZSTD(3)),
  MODIFY COLUMN row CODEC(Delta(4), ZSTD(3)),
  MODIFY COLUMN cluster CODEC(ZSTD(1)),
  MODIFY COLUMN at CODEC(Delta(8), ZSTD(3)),
  MODIFY COLUMN name CODEC(ZSTD(1)),
  MODIFY COLUMN labels CODEC(ZSTD(1)),
  MODIFY COLUMN type CODEC(ZSTD(1)),
  MODIFY COLUMN value CODEC(Delta(8), ZSTD(3));

ALTER TABLE metrics MODIFY SETTING min_compress_block_size = 1048576, max_compress_block_size = 4194304;

ALTER TABLE syncs
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

ALTER TABLE syncs MODIFY SETTING min_compress_block_size = 1048576, max_compress_block_size = 4194304;

ALTER TABLE sync_histograms
  MODIFY COLUMN sequence CODEC(Delta(8), ZSTD(3)),
  MODIFY COLUMN cluster CODEC(ZSTD(1)),
  MODIFY COLUMN class CODEC(ZSTD(1)),
  MODIFY COLUMN hook CODEC(ZSTD(1)),
  MODIFY COLUMN buckets CODEC(ZSTD(3)),
  MODIFY COLUMN count CODEC(T64, ZSTD(1)),
  MODIFY COLUMN sum_ns CODEC(T64, ZSTD(1)),
  MODIFY COLUMN run_delay_ns CODEC(T64, ZSTD(1));

ALTER TABLE writes
  MODIFY COLUMN sequence CODEC(Delta(8), ZSTD(3)),
  MODIFY COLUMN cluster CODEC(ZSTD(1)),
  MODIFY COLUMN class CODEC(ZSTD(1)),
  MODIFY COLUMN buckets CODEC(ZSTD(3)),
  MODIFY COLUMN written_bytes CODEC(T64, ZSTD(1)),
  MODIFY COLUMN calls CODEC(T64, ZSTD(1)),
  MODIFY COLUMN sum_ns CODEC(T64, ZSTD(1));
