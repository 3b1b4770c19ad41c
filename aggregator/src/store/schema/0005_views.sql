-- Views for people: names instead of numbers, milliseconds instead of nanoseconds. Made again with every change; they hold nothing.
CREATE OR REPLACE VIEW v_members AS
SELECT
  m.cluster_name AS cluster, m.member_name AS member, leftPad(lower(hex(m.member)), 16, '0') AS member_id, m.etcd_version AS etcd_version,
  m.node AS node, leftPad(lower(hex(m.etcd_cluster_id)), 16, '0') AS etcd_cluster_id, m.agent AS agent, m.seen_at AS seen_at,
  m.cluster AS cluster_id
FROM members AS m FINAL
COMMENT 'Members of all clusters, as the aggregator last saw them.';

CREATE OR REPLACE VIEW v_syncs AS
SELECT
  f.at AS at, if(m.cluster_name = '', toString(f.cluster), toString(m.cluster_name)) AS cluster, m.member_name AS member, f.class AS class,
  f.latency_ns / 1e6 AS latency_ms, f.run_delay_ns / 1e6 AS run_delay_ms, f.written_bytes AS written_bytes, f.result AS result, f.reason AS reason,
  f.sample_every AS sample_every, f.pid AS pid, f.thread_id AS thread_id, leftPad(lower(hex(f.member)), 16, '0') AS member_id, f.cluster AS cluster_id
FROM syncs AS f
LEFT ANY JOIN (SELECT cluster, member, cluster_name, member_name FROM members FINAL) AS m ON f.cluster = m.cluster AND f.member = m.member
COMMENT 'Slow syncs and a sample of the others, a row each.';

CREATE OR REPLACE VIEW v_slow_syncs AS
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

CREATE OR REPLACE VIEW v_latency AS
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

CREATE OR REPLACE VIEW v_metrics AS
SELECT
  f.at AS at, if(m.cluster_name = '', toString(f.cluster), toString(m.cluster_name)) AS cluster, m.member_name AS member, f.name AS name, f.labels AS labels,
  f.type AS type, f.value AS value, f.agent AS agent, leftPad(lower(hex(f.member)), 16, '0') AS member_id, f.cluster AS cluster_id
FROM metrics AS f
LEFT ANY JOIN (SELECT cluster, member, cluster_name, member_name FROM members FINAL) AS m ON f.cluster = m.cluster AND f.member = m.member
COMMENT 'Samples of series as they came.';

CREATE OR REPLACE VIEW v_alerts AS
SELECT
  f.at AS at, if(m.cluster_name = '', toString(f.cluster), toString(m.cluster_name)) AS cluster, m.member_name AS member, f.rule AS rule, f.severity AS severity,
  f.state AS state, f.summary AS summary, f.value AS value, f.started_at AS started_at, f.annotations AS annotations, f.fingerprint AS fingerprint,
  leftPad(lower(hex(f.member)), 16, '0') AS member_id, f.cluster AS cluster_id
FROM alerts AS f
LEFT ANY JOIN (SELECT cluster, member, cluster_name, member_name FROM members FINAL) AS m ON f.cluster = m.cluster AND f.member = m.member
COMMENT 'What became of alerts.';

CREATE OR REPLACE VIEW v_diagnoses AS
SELECT
  f.at AS at, if(m.cluster_name = '', toString(f.cluster), toString(m.cluster_name)) AS cluster, m.member_name AS member, f.state AS state, f.cause AS cause,
  f.confidence AS confidence, f.share AS share, f.culprit AS culprit, f.summary AS summary, f.next_step AS next_step, f.onset_at AS onset_at,
  f.incident AS incident, leftPad(lower(hex(f.member)), 16, '0') AS member_id, f.cluster AS cluster_id
FROM diagnoses AS f
LEFT ANY JOIN (SELECT cluster, member, cluster_name, member_name FROM members FINAL) AS m ON f.cluster = m.cluster AND f.member = m.member
COMMENT 'What became of diagnoses.';

CREATE OR REPLACE VIEW v_events AS
SELECT
  f.at AS at, if(m.cluster_name = '', toString(f.cluster), toString(m.cluster_name)) AS cluster, m.member_name AS member, f.kind AS kind, f.details AS details,
  f.agent AS agent, leftPad(lower(hex(f.member)), 16, '0') AS member_id, f.cluster AS cluster_id
FROM events AS f
LEFT ANY JOIN (SELECT cluster, member, cluster_name, member_name FROM members FINAL) AS m ON f.cluster = m.cluster AND f.member = m.member
COMMENT 'Things that happened.';
