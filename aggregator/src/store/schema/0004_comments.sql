-- What tables and columns mean, for whoever asks ClickHouse; docs/tables.md is made from it.
ALTER TABLE sync_histograms MODIFY COMMENT 'Every sync (fsync, fdatasync) that returned: a row per member, file class and second in which one ended.';

ALTER TABLE sync_histograms
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

ALTER TABLE syncs MODIFY COMMENT 'Slow syncs and a stated sample of the others, a row each; what the flight recorder kept as well.';

ALTER TABLE syncs
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

ALTER TABLE writes MODIFY COMMENT 'Writes: a row per member, file class and second with some. written_bytes is complete; calls, buckets, sum_ns and sync_file_range_calls cover the part of the second in which calls were seen.';

ALTER TABLE writes
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

ALTER TABLE metrics MODIFY COMMENT 'Samples of series. A value that did not change is sent again only every 30 s: the last one holds for up to 120 s, and not across a blind interval of the ledger.';

ALTER TABLE metrics
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

ALTER TABLE events MODIFY COMMENT 'Things that happened.';

ALTER TABLE events
  COMMENT COLUMN agent 'the agent, a random id that it keeps in its state directory',
  COMMENT COLUMN epoch 'the agent process that made the batch',
  COMMENT COLUMN sequence 'number of the batch within the epoch',
  COMMENT COLUMN row 'position of the row among the batch\'s rows for this table',
  COMMENT COLUMN cluster 'UUID of the cluster in the aggregator\'s registry; the nil UUID for facts of the node itself and for members whose cluster is not known yet',
  COMMENT COLUMN member 'etcd\'s member id, which etcd prints as lower(hex(member)); 0 = the node',
  COMMENT COLUMN at 'when',
  COMMENT COLUMN kind 'member.started, capability.degraded, clock.step …',
  COMMENT COLUMN details 'a JSON object';

ALTER TABLE ledger MODIFY COMMENT 'The account of every stream of facts: for each agent, stream, member and minute produced = stored + dropped + blind, where stored is counted in the tables themselves. Rows with numbers from 2^31 on are the aggregator\'s: what ClickHouse refused for good.';

ALTER TABLE ledger
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

ALTER TABLE autopsies MODIFY COMMENT 'Slow syncs that were examined: where the time of each went, and who else used its disks. Slow is several times the median of the member and class in the last minutes, at least 10 ms and at most 50 ms. No more than 20 a second and agent are examined; the rest is in the ledger (stream autopsy, rate_limit).';

ALTER TABLE autopsies
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

ALTER TABLE alerts MODIFY COMMENT 'What became of alerts, a row for each change of state. The aggregator is the agent.';

ALTER TABLE alerts
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

ALTER TABLE diagnoses MODIFY COMMENT 'What became of diagnoses, a row each time one is opened, is surer or blames somebody else, and is closed. The aggregator is the agent.';

ALTER TABLE diagnoses
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

ALTER TABLE members MODIFY COMMENT 'Clusters and members by name, as the aggregator last saw them. Read it with FINAL.';

ALTER TABLE members
  COMMENT COLUMN cluster 'UUID of the cluster',
  COMMENT COLUMN member 'etcd\'s member id',
  COMMENT COLUMN cluster_name 'name of the cluster, for people',
  COMMENT COLUMN etcd_cluster_id 'etcd\'s own cluster id',
  COMMENT COLUMN member_name 'name of the member',
  COMMENT COLUMN etcd_version 'version of etcd; empty while unknown',
  COMMENT COLUMN node 'host name of its agent; empty without one',
  COMMENT COLUMN agent 'its agent; nil without one',
  COMMENT COLUMN seen_at 'when this was written';

ALTER TABLE rollup_progress MODIFY COMMENT 'How far the sums are: everything before `done` was recomputed.';

ALTER TABLE rollup_progress
  COMMENT COLUMN source 'raw table',
  COMMENT COLUMN level 'minutes (10 s and a minute) or hours',
  COMMENT COLUMN done 'everything before was recomputed';

ALTER TABLE rollup_marks MODIFY COMMENT 'Minutes for which rows came late: to be recomputed while marked > done.';

ALTER TABLE rollup_marks
  COMMENT COLUMN source 'raw table',
  COMMENT COLUMN minute 'begin of the minute',
  COMMENT COLUMN marked 'number of the newest mark',
  COMMENT COLUMN done 'number of the newest mark that was obeyed';

ALTER TABLE sync_histograms_10s MODIFY COMMENT 'sync_histograms over 10 seconds. Recomputed whenever its rows change: read it with FINAL.';

ALTER TABLE sync_histograms_10s
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

ALTER TABLE sync_histograms_1m MODIFY COMMENT 'sync_histograms over a minute. Recomputed whenever its rows change: read it with FINAL.';

ALTER TABLE sync_histograms_1m
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

ALTER TABLE sync_histograms_1h MODIFY COMMENT 'sync_histograms over an hour. Recomputed whenever its rows change: read it with FINAL.';

ALTER TABLE sync_histograms_1h
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

ALTER TABLE writes_10s MODIFY COMMENT 'writes over 10 seconds. Recomputed whenever its rows change: read it with FINAL.';

ALTER TABLE writes_10s
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

ALTER TABLE writes_1m MODIFY COMMENT 'writes over a minute. Recomputed whenever its rows change: read it with FINAL.';

ALTER TABLE writes_1m
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

ALTER TABLE writes_1h MODIFY COMMENT 'writes over an hour. Recomputed whenever its rows change: read it with FINAL.';

ALTER TABLE writes_1h
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

ALTER TABLE metrics_10s MODIFY COMMENT 'metrics over 10 seconds. Recomputed whenever its rows change: read it with FINAL.';

ALTER TABLE metrics_10s
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

ALTER TABLE metrics_1m MODIFY COMMENT 'metrics over a minute. Recomputed whenever its rows change: read it with FINAL.';

ALTER TABLE metrics_1m
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

ALTER TABLE metrics_1h MODIFY COMMENT 'metrics over an hour. Recomputed whenever its rows change: read it with FINAL.';

ALTER TABLE metrics_1h
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
