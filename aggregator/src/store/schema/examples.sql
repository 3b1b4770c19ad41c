-- sync_histograms: 99th percentile of WAL syncs of each member in the last hour, from merged histograms
WITH sumMap(buckets) AS merged, arrayCumSum(mapValues(merged)) AS seen
SELECT cluster, lower(hex(member)) AS member_id, sum(count) AS syncs,
  mapKeys(merged)[arrayFirstIndex(n -> n >= 0.99 * seen[-1], seen)] AS bucket,
  (10.5 + (bucket - 1) % 90) * exp10(intDiv(bucket - 1, 90) + 1) / 1e6 AS p99_ms
FROM sync_histograms WHERE class = 'wal' AND at > now() - INTERVAL 1 HOUR GROUP BY cluster, member;

-- syncs: The ten slowest syncs of today
SELECT at, class, latency_ns / 1e6 AS ms, written_bytes, thread_id FROM syncs WHERE at >= today() ORDER BY latency_ns DESC LIMIT 10;

-- writes: Bytes written by file class in the last hour
SELECT class, formatReadableSize(sum(written_bytes)) AS written FROM writes WHERE at > now() - INTERVAL 1 HOUR GROUP BY class;

-- metrics: The newest size of each member's database
SELECT cluster, lower(hex(member)) AS member_id, argMax(value, at) AS bytes
FROM metrics WHERE name = 'etcd_mvcc_db_total_size_in_bytes' AND at > now() - INTERVAL 2 MINUTE GROUP BY cluster, member;

-- events: What happened in the last day
SELECT at, kind, lower(hex(member)) AS member_id, details FROM events WHERE at > now() - INTERVAL 1 DAY ORDER BY at DESC LIMIT 100;

-- ledger: What was dropped, and why
SELECT toStartOfHour(at) AS hour, stream, reason, sum(count) AS dropped FROM ledger
WHERE kind = 'dropped' AND at > now() - INTERVAL 7 DAY GROUP BY hour, stream, reason ORDER BY hour, dropped DESC;

-- autopsies: Who hurt most in an hour
SELECT JSONExtractString(culprit, 'cgroup') AS cgroup, sum(JSONExtractUInt(culprit, 'wait_ns')) / 1e9 AS seconds
FROM autopsies ARRAY JOIN JSONExtractArrayRaw(culprits) AS culprit
WHERE at > now() - INTERVAL 1 HOUR GROUP BY cgroup ORDER BY seconds DESC;

-- alerts: How often each rule fired in the last month, and for how long
SELECT rule, countIf(state = 'firing') AS fired, sumIf(dateDiff('second', started_at, at), state = 'resolved') AS seconds
FROM alerts WHERE at > now() - INTERVAL 30 DAY GROUP BY rule ORDER BY fired DESC;

-- diagnoses: Who made members slow in the last week
SELECT cause, culprit, count() AS times FROM diagnoses WHERE state = 'closed' AND at > now() - INTERVAL 7 DAY
GROUP BY cause, culprit ORDER BY times DESC;

-- members: Which version runs where
SELECT cluster_name, member_name, etcd_version FROM members FINAL ORDER BY cluster_name, member_name;

-- sync_histograms_10s: Syncs a second of each class in the last six hours
SELECT at, class, sum(count) / 10 AS per_second FROM sync_histograms_10s FINAL
WHERE at > now() - INTERVAL 6 HOUR GROUP BY at, class ORDER BY at, class;

-- sync_histograms_1m: Mean latency of WAL syncs by the minute
SELECT at, sum(sum_ns) / sum(count) / 1e6 AS mean_ms FROM sync_histograms_1m FINAL
WHERE class = 'wal' AND at > now() - INTERVAL 1 DAY GROUP BY at ORDER BY at;

-- sync_histograms_1h: Syncs over 100 ms by the day, in 90 days (bucket 541 begins at 100 ms)
SELECT toDate(at) AS day, sum(arraySum((bucket, n) -> if(bucket >= 541, n, 0), mapKeys(buckets), mapValues(buckets))) AS slow
FROM sync_histograms_1h FINAL WHERE class = 'wal' AND at > now() - INTERVAL 90 DAY GROUP BY day ORDER BY day;

-- writes_10s: Bytes a second in the last six hours
SELECT at, class, sum(written_bytes) / 10 AS bytes_per_second FROM writes_10s FINAL
WHERE at > now() - INTERVAL 6 HOUR GROUP BY at, class ORDER BY at, class;

-- writes_1m: The minute with the most bytes of today
SELECT at, class, written_bytes FROM writes_1m FINAL WHERE at >= today() ORDER BY written_bytes DESC LIMIT 1;

-- writes_1h: Bytes written by the month
SELECT toStartOfMonth(at) AS month, class, sum(written_bytes) AS bytes FROM writes_1h FINAL GROUP BY month, class ORDER BY month, class;

-- metrics_10s: CPU time of etcd, in cores
SELECT at, lower(hex(member)) AS member_id, sum(increase) / 10 AS cores FROM metrics_10s FINAL
WHERE name = 'process_cpu_seconds_total' AND at > now() - INTERVAL 6 HOUR GROUP BY at, member ORDER BY at;

-- metrics_1m: Smallest and largest value of a gauge by the minute
SELECT at, lower(hex(member)) AS member_id, min, max FROM metrics_1m FINAL
WHERE name = 'etcd_server_has_leader' AND at > now() - INTERVAL 1 DAY ORDER BY at;

-- metrics_1h: Growth of databases over 90 days
SELECT toDate(at) AS day, lower(hex(member)) AS member_id, argMax(last, last_at) AS bytes FROM metrics_1h FINAL
WHERE name = 'etcd_mvcc_db_total_size_in_bytes' AND at > now() - INTERVAL 90 DAY GROUP BY day, member ORDER BY day;

-- rollup_progress: How far the sums are behind
SELECT source, level, dateDiff('second', max(done), now()) AS behind_seconds FROM rollup_progress GROUP BY source, level;

-- rollup_marks: Minutes that wait to be recomputed
SELECT source, count() FROM (SELECT source, minute FROM rollup_marks GROUP BY source, minute HAVING max(marked) > max(done)) GROUP BY source;

-- v_members: Members with their agents
SELECT cluster, member, member_id, etcd_version, node FROM v_members ORDER BY cluster, member;

-- v_syncs: Slow WAL syncs of a member
SELECT at, latency_ms, written_bytes FROM v_syncs WHERE class = 'wal' AND reason = 'slow' AND at > now() - INTERVAL 1 DAY ORDER BY at DESC LIMIT 50;

-- v_slow_syncs: Where the time of slow syncs went
SELECT cluster, member, count() AS syncs, sum(device_ms), sum(queue_ms), sum(journal_ms), sum(unexplained_ms)
FROM v_slow_syncs WHERE at > now() - INTERVAL 1 HOUR GROUP BY cluster, member;

-- v_latency: The worst minutes of the day
SELECT at, cluster, member, p99_ms, max_ms, syncs FROM v_latency WHERE class = 'wal' AND at > now() - INTERVAL 1 DAY ORDER BY p99_ms DESC LIMIT 10;

-- v_metrics: A series of one cluster
SELECT at, member, value FROM v_metrics WHERE name = 'etcd_server_has_leader' AND at > now() - INTERVAL 5 MINUTE ORDER BY at;

-- v_alerts: Pages of the last week
SELECT at, cluster, member, rule, state, summary FROM v_alerts WHERE severity = 'critical' AND at > now() - INTERVAL 7 DAY ORDER BY at DESC;

-- v_diagnoses: Causes and culprits of today
SELECT at, cluster, member, cause, culprit, summary FROM v_diagnoses WHERE state = 'opened' AND at >= today() ORDER BY at DESC;

-- v_events: Restarts of members
SELECT at, cluster, member, details FROM v_events WHERE kind = 'member.started' AND at > now() - INTERVAL 30 DAY ORDER BY at DESC;
