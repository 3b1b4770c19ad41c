//! Everything the aggregator tells about itself, declared in one place. Names are `etcdmon_aggregator_<part>_<name>_<unit>`;
//! prefix and `_total` are added here. With it what it knows of clusters and members: [`crate::export`].

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use crate::clock::Clock;
use crate::diagnosis::Cause;
use crate::engine::{Facts, Fall};
use crate::enrol;
use crate::export::{self, Families, Family, Histogram, Kind, Label, Value};
use crate::ingest;
use crate::notify::outbox::{Outcome, OutcomeKind};
use crate::rollup;
use crate::sql;
use crate::state::State;
use crate::store::frontier::SOURCES;
use crate::store::upkeep::Upkeep;
use crate::store::{Store, Table};
use crate::tls;
use crate::view::View;

/// Bounds of the delivery histogram in seconds: the promise is 5, the hard limit 30.
const DELIVERY_BOUNDS: [f64; 10] = [0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0, 300.0, 3_600.0];

/// What became of notices. Cheap to clone; every clone counts into the same.
#[derive(Debug, Clone, Default)]
pub struct Deliveries {
    counts: Arc<Mutex<DeliveryCounts>>,
}

#[derive(Debug, Default)]
struct DeliveryCounts {
    /// By receiver and result.
    attempts: BTreeMap<(String, &'static str), u64>,
    /// Up to each of [`DELIVERY_BOUNDS`].
    within: [u64; DELIVERY_BOUNDS.len()],
    seconds: f64,
    delivered: u64,
}

impl Deliveries {
    /// Counts an outcome.
    pub fn count(&self, outcome: &Outcome) {
        let result = match outcome.kind {
            OutcomeKind::Delivered => "delivered",
            OutcomeKind::Refused => "refused",
            OutcomeKind::Retry => "retry",
        };
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.attempts.entry((outcome.receiver.clone(), result)).or_default() += 1;
        if outcome.kind == OutcomeKind::Delivered {
            let took = outcome.took.as_secs_f64();
            counts.seconds += took;
            counts.delivered += 1;
            let bounds = counts.within.iter_mut().zip(DELIVERY_BOUNDS);
            bounds.filter(|(_, bound)| took <= *bound).for_each(|(count, _)| *count += 1);
        }
    }

    fn add(&self, families: &mut Families) {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut writer = Writer(families);
        let labels: Vec<_> = counts
            .attempts
            .iter()
            .map(|((receiver, result), count)| {
                ([("receiver", receiver.as_str()), ("result", *result)], *count)
            })
            .collect();
        let values = labels.iter().map(|(label, count)| (label.as_slice(), *count));
        writer.counters("notify_attempts", "Attempts to deliver notices", values);
        let buckets = DELIVERY_BOUNDS.into_iter().zip(counts.within).collect();
        let histogram = Histogram { buckets, sum: counts.seconds, count: counts.delivered };
        families.add(
            "etcdmon_aggregator_notify_delivery_seconds",
            "From planning a notice to its delivery",
            Kind::Histogram,
            Vec::new(),
            Value::Histogram(histogram),
        );
    }
}

/// What the numbers come from.
#[derive(Clone)]
pub struct Sources {
    /// Its clock.
    pub clock: Clock,
    /// Clusters, agents, alerts.
    pub view: watch::Receiver<Arc<View>>,
    /// Store.
    pub store: Store,
    /// Rollups.
    pub rollup: Arc<rollup::Counters>,
    /// Alerts, diagnoses, notices on disk.
    pub state: State,
    /// Ingest.
    pub ingest: Arc<ingest::Counters>,
    /// Enrolment.
    pub enrolment: Arc<enrol::Counters>,
    /// Certificates.
    pub certificates: tls::Gauges,
    /// SQL of users.
    pub sql: Arc<sql::Counters>,
    /// Embedded engine, if it is embedded.
    pub engine: Option<watch::Receiver<Facts>>,
    /// What became of notices.
    pub deliveries: Deliveries,
    /// What became of metrics that are pushed, if they are.
    pub otlp: Option<Arc<export::Counters>>,
    /// Whether the newest samples of all series are shown as well.
    pub samples: bool,
    /// What became of its store.
    pub upkeep: Option<watch::Receiver<Upkeep>>,
}

impl std::fmt::Debug for Sources {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Sources").finish_non_exhaustive()
    }
}

impl Sources {
    /// Everything that `/metrics` shows, as of now.
    pub fn families(&self) -> Vec<Family> {
        let mut families = Families::default();
        let mut writer = Writer(&mut families);
        self.process(&mut writer);
        self.ingest(&mut writer);
        self.security(&mut writer);
        self.store(&mut writer);
        self.rollup(&mut writer);
        self.engine(&mut writer);
        self.sql(&mut writer);
        self.model(&mut writer);
        self.otlp(&mut writer);
        self.deliveries.add(&mut families);
        let view = self.view.borrow().clone();
        let tally = self.store.tally();
        export::fleet(&mut families, &view, tally);
        if self.samples {
            let now_ns = self.clock.wall(self.clock.now()).timestamp_nanos_opt().unwrap_or(i64::MAX);
            export::sampled(&mut families, &view, tally.newest(now_ns));
        }
        families.into_vec()
    }
}

struct Writer<'a>(&'a mut Families);

type Labels<'a> = &'a [(&'a str, &'a str)];

impl Writer<'_> {
    fn counter(&mut self, name: &str, help: &'static str, value: u64) {
        self.counters(name, help, [([].as_slice(), value)]);
    }

    /// A counter of seconds, from nanoseconds.
    fn seconds(&mut self, name: &str, help: &'static str, ns: u64) {
        let name = format!("etcdmon_aggregator_{name}_total");
        self.0.add(name, help, Kind::Counter, Vec::new(), Value::Number(ns as f64 / 1e9));
    }

    fn gauge(&mut self, name: &str, help: &'static str, value: u64) {
        self.gauges(name, help, [([].as_slice(), value)]);
    }

    fn counters<'l>(
        &mut self,
        name: &str,
        help: &'static str,
        values: impl IntoIterator<Item = (Labels<'l>, u64)>,
    ) {
        self.family(format!("etcdmon_aggregator_{name}_total"), help, Kind::Counter, values);
    }

    fn gauges<'l>(
        &mut self,
        name: &str,
        help: &'static str,
        values: impl IntoIterator<Item = (Labels<'l>, u64)>,
    ) {
        self.family(format!("etcdmon_aggregator_{name}"), help, Kind::Gauge, values);
    }

    fn family<'l>(
        &mut self,
        name: String,
        help: &'static str,
        kind: Kind,
        values: impl IntoIterator<Item = (Labels<'l>, u64)>,
    ) {
        // Shown even before it has a value.
        self.0.family(Cow::Owned(name.clone()), help.into(), kind);
        for (labels, value) in values {
            let owned = |(name, value): &(&str, &str)| -> Label {
                (Cow::Owned((*name).to_owned()), (*value).to_owned())
            };
            let labels = labels.iter().map(owned).collect();
            self.0.add(name.clone(), help, kind, labels, Value::Number(value as f64));
        }
    }
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

impl Sources {
    fn process(&self, writer: &mut Writer<'_>) {
        let version: Labels<'_> = &[("version", env!("CARGO_PKG_VERSION"))];
        writer.gauges("build_info", "Version of the program; always 1", [(version, 1)]);
        writer.counter("panics", "Tasks that panicked: each is a bug", etcdmon_service::process::panics());
        let allocated = etcdmon_service::memory::allocated_bytes();
        writer.gauge("allocated_bytes", "Memory in use, without what the allocator keeps", allocated);
    }

    fn ingest(&self, writer: &mut Writer<'_>) {
        let c = &self.ingest;
        writer.counter("ingest_batches", "Batches that arrived whole", read(&c.batches));
        writer.counter("ingest_rows", "Rows in batches that decoded", read(&c.rows));
        writer.counter("ingest_bytes", "Bytes of batches", read(&c.bytes));
        writer.counter(
            "ingest_acknowledged_batches",
            "Batches whose rows are all durable",
            read(&c.acknowledged),
        );
        writer.counter("ingest_refused_batches", "Batches refused for good", read(&c.refused));
        writer.counter(
            "ingest_unknown_rows",
            "Rows of kinds that this version does not know",
            read(&c.unknown_rows),
        );
        writer.counter("ingest_resent_batches", "Batches that may have been sent before", read(&c.resends));
        writer.counter("ingest_live_messages", "Live messages", read(&c.live));
        writer.counter(
            "ingest_live_dropped_messages",
            "Live messages that found the model behind",
            read(&c.live_dropped),
        );
        writer.counter(
            "ingest_unknown_requests",
            "Requests of a kind that this version does not know",
            read(&c.unknown_requests),
        );
        writer.counter("ingest_pace_changes", "Changes of pace that agents were told", read(&c.paces));
        writer.counter(
            "ingest_live_late_messages",
            "Live messages that came after a break",
            read(&c.live_late),
        );
        writer.counter(
            "ingest_live_late_put_off_messages",
            "Late live messages that found the model behind, and come again",
            read(&c.live_late_put_off),
        );
        writer.counter(
            "ingest_handshakes_refused",
            "Streams refused at their first message",
            read(&c.handshakes_refused),
        );
        writer.counter(
            "ingest_garbage_connections",
            "Connections that did not begin as they must",
            read(&c.garbage),
        );
        writer.gauge("ingest_streams", "Streams open", read(&c.streams));
    }

    fn security(&self, writer: &mut Writer<'_>) {
        let (c, e) = (&self.ingest, &self.enrolment);
        writer.counter("ingest_tls_failed_handshakes", "TLS handshakes that failed", read(&c.tls_failed));
        writer.counter(
            "ingest_refused_certificates",
            "Agents' certificates refused: expired, revoked, or of another authority",
            read(&c.certificates_refused),
        );
        writer.counter("enrol_enrolled_agents", "First certificates handed out", read(&e.enrolled));
        writer.counter("enrol_renewed_certificates", "Certificates renewed", read(&e.renewed));
        writer.counter("enrol_refused", "Enrolments and renewals refused", read(&e.refused));
        writer.counter(
            "enrol_reused_tokens",
            "Tries with a join token that was used up: it is in two places",
            read(&e.tokens_reused),
        );
        writer.counter("enrol_limited", "Tries that came too fast", read(&e.limited));
        writer.counter("enrol_revoked_agents", "Agents revoked", read(&e.revoked));
        writer.counter(
            "tls_reload_failures",
            "Changed TLS files that could not be put in force",
            self.certificates.failures(),
        );
        let expiries = self.certificates.expiries();
        let labels: Vec<_> =
            expiries.iter().map(|(name, at)| ([("certificate", *name)], at.timestamp())).collect();
        let values = labels.iter().map(|(label, at)| (label.as_slice(), u64::try_from(*at).unwrap_or(0)));
        writer.gauges("tls_certificate_expiry_seconds", "End of life of a certificate, Unix time", values);
    }

    fn store(&self, writer: &mut Writer<'_>) {
        let c = self.store.counters();
        let labels: Vec<_> = Table::ALL.iter().map(|table| (*table, [("table", table.name())])).collect();
        let rows = labels.iter().map(|(table, label)| (label.as_slice(), read(c.rows_stored(*table))));
        writer.counters("store_rows", "Rows stored", rows);
        let rows =
            labels.iter().map(|(table, label)| (label.as_slice(), read(&c.rows_unstorable[*table as usize])));
        writer.counters("store_unstorable_rows", "Rows that ClickHouse will never take, set aside", rows);
        writer.counter("store_batches", "Batches stored as a whole", read(&c.batches_stored));
        writer.counter(
            "store_merged_batches",
            "Batches that came again while they waited",
            read(&c.batches_merged),
        );
        writer.counter("store_inserts", "Inserts that ended well", read(&c.inserts));
        writer.counter(
            "store_failed_inserts",
            "Inserts that failed or have an unknown outcome",
            read(&c.inserts_failed),
        );
        writer.counter(
            "store_presence_checks",
            "Times that tables were asked what they have",
            read(&c.presence_checks),
        );
        writer.counter("store_present_rows", "Rows that were there already", read(&c.rows_present));
        writer.counter("store_flushes", "Groups of batches stored", read(&c.flushes));
        writer.seconds("store_flush_seconds", "Time that groups took", read(&c.flush_ns));
        writer.gauge("store_waiting_batches", "Batches that wait to be stored", read(&c.batches_waiting));
        writer.gauge("store_waiting_bytes", "Memory that waiting batches take", read(&c.bytes_waiting));
        writer.counter(
            "store_tally_left_out",
            "Counters and series of members that were left out because there were too many",
            self.store.tally().left_out(),
        );
        writer.gauge(
            "store_ready",
            "Whether the schema was brought up to date",
            self.store.is_ready().into(),
        );
    }

    fn rollup(&self, writer: &mut Writer<'_>) {
        let c = &self.rollup;
        let labels = SOURCES.map(|source| [("source", source.name())]);
        let each = |values: &[AtomicU64; SOURCES.len()]| {
            let values: Vec<u64> = values.iter().map(read).collect();
            labels.iter().map(|label| label.as_slice()).zip(values).collect::<Vec<_>>()
        };
        writer.gauges(
            "rollup_lag_seconds",
            "How far the newest finished minute is behind",
            each(&c.lag_seconds),
        );
        writer.gauges(
            "rollup_marked_buckets",
            "Minutes with late rows that wait to be recomputed",
            each(&c.marks_waiting),
        );
        writer.counters("rollup_buckets", "Minutes recomputed in their turn", each(&c.minutes));
        writer.counters("rollup_late_buckets", "Minutes recomputed for late rows", each(&c.late_minutes));
        writer.counters(
            "rollup_too_late_buckets",
            "Minutes with rows that came when their neighbours were no longer kept: not in the sums",
            each(&c.too_late_minutes),
        );
        writer.counter(
            "transcript_lost_lines",
            "Transitions of alerts and diagnoses that were lost before they were stored",
            self.state.untold_lines(),
        );
        writer.counter("rollup_failures", "Steps that failed and are taken again", read(&c.failures));
        writer.seconds("rollup_busy_seconds", "Time in statements", read(&c.busy_ns));
    }

    fn engine(&self, writer: &mut Writer<'_>) {
        let Some(facts) = &self.engine else { return };
        let facts = facts.borrow().clone();
        writer.gauge("engine_running", "Whether the embedded engine answers", facts.running.into());
        writer.counter("engine_restarts", "Times that it ended without being told to", facts.restarts);
        let labels = Fall::ALL.map(|fall| ([("reason", fall.name())], facts.falls[fall as usize]));
        let values = labels.iter().map(|(label, count)| (label.as_slice(), *count));
        writer.counters("engine_falls", "The same by reason", values);
        writer.gauge("engine_memory_bytes", "Memory of its own that it takes", facts.memory_bytes);
        if let Some(room) = facts.room {
            writer.gauge("engine_disk_free_bytes", "Room on the disk of the store", room.free_bytes);
            writer.gauge("engine_disk_full", "Whether nothing is stored for want of room", room.full.into());
        }
        let Some(upkeep) = &self.upkeep else { return };
        let upkeep = upkeep.borrow().clone();
        if let Some(bytes) = upkeep.bytes {
            writer.gauge("store_table_bytes", "Room that tables take", bytes);
        }
        if let Some(bytes) = upkeep.max_bytes {
            writer.gauge("store_max_table_bytes", "Room that tables may take", bytes);
        }
        let help = "Partitions dropped to keep within the room";
        writer.counter("store_dropped_partitions", help, upkeep.dropped_partitions);
        writer.counter("store_dropped_rows", "Rows in them", upkeep.dropped_rows);
        writer.counter(
            "store_lost_parts",
            "Parts of tables that can't be read, set aside",
            upkeep.lost_parts,
        );
        writer.counter("store_lost_rows", "Rows lost with them, as the ledger counts", upkeep.lost_rows);
    }

    fn sql(&self, writer: &mut Writer<'_>) {
        let outcomes = self.sql.by_outcome().map(|(outcome, count)| ([("outcome", outcome)], count));
        let values = outcomes.iter().map(|(label, count)| (label.as_slice(), *count));
        writer.counters("sql_statements", "Statements of users, by what became of them", values);
    }

    fn model(&self, writer: &mut Writer<'_>) {
        let view = self.view.borrow().clone();
        writer.gauge("clusters", "Clusters known", view.clusters.len() as u64);
        let alive = view.agents.iter().filter(|agent| agent.alive).count();
        writer.gauge("agents_alive", "Agents that sent something in the last 5 s", alive as u64);
        writer.gauge("agents_silent", "Agents that fell silent", (view.agents.len() - alive) as u64);
        writer.gauge(
            "live_lost_messages",
            "Live messages of present agent processes that did not arrive, neither in time nor late",
            view.live_lost,
        );
        let faults = [
            ("stale", view.faults.stale),
            ("refused", view.faults.refused),
            ("corrupt", view.faults.corrupt),
            ("reset", view.faults.resets),
        ];
        let labels = faults.map(|(kind, count)| ([("kind", kind)], count));
        let values = labels.iter().map(|(label, count)| (label.as_slice(), *count));
        writer.counters("live_faults", "What was wrong with live messages", values);
        let mut alerts: Vec<([(&str, &str); 2], u64)> = Vec::new();
        for state in ["pending", "firing"] {
            for severity in ["critical", "warning", "info"] {
                let count = view.alerts.iter().filter(|a| a.state == state && a.severity == severity).count();
                alerts.push(([("state", state), ("severity", severity)], count as u64));
            }
        }
        let values = alerts.iter().map(|(label, count)| (label.as_slice(), *count));
        writer.gauges("alerts", "Alerts by state and severity", values);
        let open = Cause::ALL.map(|cause| {
            let count = view.diagnoses.open().filter(|diagnosis| diagnosis.cause == cause).count();
            ([("cause", cause.name())], count as u64)
        });
        let values = open.iter().map(|(label, count)| (label.as_slice(), *count));
        writer.gauges("diagnoses_open", "Diagnoses that are open, by cause", values);
        writer.counter(
            "diagnoses_refused",
            "Diagnoses that were not opened because there were too many",
            view.diagnoses.refused(),
        );
    }

    fn otlp(&self, writer: &mut Writer<'_>) {
        let Some(c) = &self.otlp else { return };
        writer.counter("otlp_delivered_points", "Data points that the receiver took", read(&c.delivered));
        let dropped = [
            ("queue_full", read(&c.dropped_full)),
            ("refused", read(&c.dropped_refused)),
            ("rejected", read(&c.dropped_rejected)),
            ("end", read(&c.dropped_end)),
        ];
        let labels = dropped.map(|(reason, count)| ([("reason", reason)], count));
        let values = labels.iter().map(|(label, count)| (label.as_slice(), *count));
        writer.counters("otlp_dropped_points", "Data points that were dropped, and why", values);
        writer.counter("otlp_failures", "Attempts that failed and were repeated", read(&c.failures));
        writer.gauge("otlp_waiting_points", "Data points that wait", read(&c.waiting));
    }
}
