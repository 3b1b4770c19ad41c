//! Rows to columns: one function a kind of record.

use super::{Builder, autopsies, convert, v1};
use prost::Message;

impl Builder {
    /// All sections that have rows, time bases first. The rows are used up.
    pub(super) fn sections(&mut self) -> Vec<v1::Section> {
        let mut sections = Vec::new();
        let mut add = |kind: v1::SectionKind, rows: usize, payload: Vec<u8>| {
            if rows > 0 {
                sections.push(v1::Section { kind: kind as i32, rows: rows as u32, payload });
            }
        };
        add(v1::SectionKind::TimeBase, self.bases.len(), self.time_bases().encode_to_vec());
        add(v1::SectionKind::SyncHistogram, self.sync_seconds.len(), self.sync_histograms().encode_to_vec());
        add(v1::SectionKind::Sync, self.syncs.len(), self.sync_rows().encode_to_vec());
        add(v1::SectionKind::Write, self.writes.len(), self.write_rows().encode_to_vec());
        add(v1::SectionKind::Metric, self.samples.len(), self.metrics().encode_to_vec());
        add(v1::SectionKind::Event, self.events.len(), self.event_rows().encode_to_vec());
        add(
            v1::SectionKind::Autopsy,
            self.slow_syncs.len(),
            autopsies::columns(&self.slow_syncs).encode_to_vec(),
        );
        add(v1::SectionKind::Ledger, self.account.len(), self.ledger().encode_to_vec());
        sections
    }

    fn time_bases(&mut self) -> v1::TimeBases {
        // The monotonic clock rises, and so must its column.
        self.bases.sort_by_key(|base| base.mono_ns);
        let monos: Vec<u64> = self.bases.iter().map(|base| base.mono_ns).collect();
        v1::TimeBases {
            mono_ns_delta: convert::delta_u64("mono_ns", &monos).unwrap_or_default(),
            wall_minus_mono_ns_delta: convert::delta_i64(self.bases.iter().map(|b| b.wall_minus_mono_ns())),
        }
    }

    fn sync_histograms(&self) -> v1::SyncHistograms {
        let rows = || self.sync_seconds.iter().map(|(_, fact)| fact);
        let mut columns = v1::SyncHistograms {
            member: self.sync_seconds.iter().map(|(member, _)| *member).collect(),
            file_class: rows().map(|fact| fact.class as i32).collect(),
            second_delta: convert::delta_i64(rows().map(|fact| fact.second)),
            bucket_len: rows().map(|fact| fact.buckets.len() as u32).collect(),
            sum_ns: rows().map(|fact| fact.sum_ns).collect(),
            errors: rows().map(|fact| fact.errors).collect(),
            run_delay_ns: rows().map(|fact| fact.run_delay_ns).collect(),
            hook: rows().map(|fact| fact.hook as i32).collect(),
            ..v1::SyncHistograms::default()
        };
        for fact in rows() {
            push_buckets(&fact.buckets, &mut columns.bucket_delta, &mut columns.bucket_count);
        }
        columns
    }

    fn sync_rows(&self) -> v1::Syncs {
        let rows = || self.syncs.iter().map(|(_, fact)| fact);
        v1::Syncs {
            sample_every: self.sampling.sample_every,
            slow_ns: self.sampling.slow_ns,
            member: self.syncs.iter().map(|(member, _)| *member).collect(),
            file_class: rows().map(|fact| fact.class as i32).collect(),
            start_mono_ns_delta: convert::delta_i64(rows().map(|fact| fact.start_mono_ns as i64)),
            latency_ns: rows().map(|fact| fact.latency_ns).collect(),
            thread_id: rows().map(|fact| fact.thread_id).collect(),
            run_delay_ns: rows().map(|fact| fact.run_delay_ns).collect(),
            written_bytes: rows().map(|fact| fact.written_bytes).collect(),
            inode: rows().map(|fact| fact.inode).collect(),
            device: rows().map(|fact| fact.device).collect(),
            result: rows().map(|fact| fact.result).collect(),
            reason: rows().map(|fact| fact.reason as i32).collect(),
        }
    }

    fn write_rows(&self) -> v1::Writes {
        let rows = || self.writes.iter().map(|(_, fact)| fact);
        let mut columns = v1::Writes {
            member: self.writes.iter().map(|(member, _)| *member).collect(),
            file_class: rows().map(|fact| fact.class as i32).collect(),
            second_delta: convert::delta_i64(rows().map(|fact| fact.second)),
            written_bytes: rows().map(|fact| fact.written_bytes).collect(),
            observed_ns: rows().map(|fact| fact.observed_ns).collect(),
            calls: rows().map(|fact| fact.calls).collect(),
            bucket_len: rows().map(|fact| fact.buckets.len() as u32).collect(),
            sum_ns: rows().map(|fact| fact.sum_ns).collect(),
            sync_file_range_calls: rows().map(|fact| fact.sync_file_range_calls).collect(),
            ..v1::Writes::default()
        };
        for fact in rows() {
            push_buckets(&fact.buckets, &mut columns.bucket_delta, &mut columns.bucket_count);
        }
        columns
    }

    fn metrics(&self) -> v1::Metrics {
        let series = self.series_list.iter().map(|(member_plus_one, series)| v1::Series {
            member_plus_one: *member_plus_one,
            name: series.name.clone(),
            label: series.labels.clone(),
            r#type: series.kind as i32,
        });
        v1::Metrics {
            series: series.collect(),
            series_index: self.samples.iter().map(|(index, ..)| *index).collect(),
            mono_ns_delta: convert::delta_i64(self.samples.iter().map(|(_, mono_ns, _)| *mono_ns as i64)),
            value: self.samples.iter().map(|(.., value)| *value).collect(),
        }
    }

    fn event_rows(&self) -> v1::Events {
        let rows = || self.events.iter().map(|(_, fact)| fact);
        v1::Events {
            member_plus_one: self.events.iter().map(|(member, _)| *member).collect(),
            mono_ns_delta: convert::delta_i64(rows().map(|fact| fact.mono_ns as i64)),
            kind: rows().map(|fact| fact.kind.to_owned()).collect(),
            details_json: rows().map(|fact| fact.details.to_string()).collect(),
        }
    }

    fn ledger(&self) -> v1::Ledger {
        let rows = || self.account.iter();
        v1::Ledger {
            minute_delta: convert::delta_i64(rows().map(|row| row.minute)),
            stream: rows().map(|row| row.stream.clone()).collect(),
            kind: rows().map(|row| row.kind as i32).collect(),
            reason: rows().map(|row| row.reason.clone()).collect(),
            count: rows().map(|row| row.count).collect(),
            blind_from_ns: rows().map(|row| row.blind_ns.0).collect(),
            blind_to_ns: rows().map(|row| row.blind_ns.1).collect(),
            member_plus_one: rows().map(|row| row.member_plus_one).collect(),
        }
    }
}

fn push_buckets(buckets: &[(u16, u64)], deltas: &mut Vec<u32>, counts: &mut Vec<u64>) {
    let mut last = 0;
    for (bucket, count) in buckets {
        deltas.push(u32::from(*bucket) - last);
        counts.push(*count);
        last = u32::from(*bucket);
    }
}
