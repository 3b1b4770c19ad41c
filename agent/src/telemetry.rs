//! The agent's own metrics, declared once. Served on the admin address, `etcdmon_agent_*`.

use std::sync::Mutex;

use etcdmon_service::breaker::State;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use crate::encode::Closed;
use crate::spool::{Dropped, Usage};

mod collections;

pub use collections::Collections;

/// A count by stream and reason.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct DropLabels {
    stream: &'static str,
    reason: &'static str,
}

/// A count by kernel program and reason.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct KernelLabels {
    program: &'static str,
    reason: &'static str,
}

/// A count by stream.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StreamLabels {
    stream: &'static str,
}

/// All metrics of the agent.
#[derive(Debug, Default)]
pub struct Telemetry {
    /// etcd processes watched now.
    pub members: Gauge,
    /// Facts that went out without ids.
    pub unidentified_facts: Counter,
    /// Notes that found no room.
    pub notes_lost: Counter,
    /// Snapshots put off because the hub was busy.
    pub snapshots_put_off: Counter,
    /// Batches acknowledged.
    pub acknowledged: Counter,
    /// Batches refused.
    pub refused: Counter,
    /// Rows that the aggregator did not know how to store.
    pub unknown_rows: Counter,
    /// Connections to the aggregator that were made.
    pub connections: Counter,
    /// 1 while the batch stream stands.
    pub connected: Gauge,
    /// Live summaries sent late.
    pub live_late: Counter,
    /// Live summaries that were never delivered.
    pub live_forgotten: Counter,
    /// Certificates that enrolment brought.
    pub enrolments: Counter,
    /// Tries of enrolment and renewal that failed.
    pub enrolment_failures: Counter,
    /// End of life of the certificate that enrolment brought, Unix time; 0 = none.
    pub certificate_expiry: Gauge,
    /// Bytes of spool segments that could not be read.
    pub spool_corrupt_bytes: Counter,
    /// Collectors.
    pub collections: Collections,
    /// Rows that dumps of the flight recorder added.
    pub flight_rows: Counter,
    /// Dumps of the flight recorder that are over.
    pub flight_dumps: Counter,
    flight_suppressed: Counter,
    flight_records: Gauge,
    flight_memory: Gauge,
    breaker_state: Family<StreamLabels, Gauge>,
    breaker_failures: Family<StreamLabels, Gauge>,
    produced: Family<StreamLabels, Counter>,
    dropped: Family<DropLabels, Counter>,
    kernel_losses: Family<KernelLabels, Counter>,
    batches: Counter,
    batch_bytes: Counter,
    spool_batches: Gauge,
    spool_ram: Gauge,
    spool_disk: Gauge,
    spool_allocated: Gauge,
    spool_sealed: Gauge,
    spool_write_failures: Gauge,
    page: Mutex<String>,
}

impl Telemetry {
    /// Notes a closed batch.
    pub fn closed(&self, closed: &Closed) {
        self.batches.inc();
        self.batch_bytes.inc_by(closed.payload.len() as u64);
        for (stream, count) in closed.counts.by_stream() {
            self.produced.get_or_create(&StreamLabels { stream }).inc_by(count);
        }
    }

    /// Notes a dropped batch.
    pub fn dropped(&self, dropped: &Dropped) {
        for (stream, count) in dropped.counts.by_stream() {
            let labels = DropLabels { stream, reason: dropped.reason };
            self.dropped.get_or_create(&labels).inc_by(count);
        }
    }

    /// Notes a loss in the kernel.
    pub fn kernel_lost(&self, program: &'static str, reason: &'static str, count: u64) {
        self.kernel_losses.get_or_create(&KernelLabels { program, reason }).inc_by(count);
    }

    /// Notes how full the flight recorder is (records, bytes), and how many triggers it did not follow.
    pub fn flight(&self, (records, bytes): (usize, usize), suppressed: u64) {
        self.flight_records.set(i64::try_from(records).unwrap_or(i64::MAX));
        self.flight_memory.set(i64::try_from(bytes).unwrap_or(i64::MAX));
        self.flight_suppressed.inc_by(suppressed);
    }

    /// Notes how a stream's circuit breaker is.
    pub fn breaker(&self, stream: &'static str, state: State, failures: u32) {
        let labels = StreamLabels { stream };
        self.breaker_state.get_or_create(&labels).set(state.value());
        self.breaker_failures.get_or_create(&labels).set(i64::from(failures));
    }

    /// (state, failures in a row) of a stream's circuit breaker.
    pub fn breaker_of(&self, stream: &'static str) -> (State, i64) {
        let labels = StreamLabels { stream };
        let value = self.breaker_state.get_or_create(&labels).get();
        let state =
            [State::Closed, State::HalfOpen, State::Open].into_iter().find(|state| state.value() == value);
        (state.unwrap_or_default(), self.breaker_failures.get_or_create(&labels).get())
    }

    /// Notes how full the spool is.
    pub fn spool(&self, usage: Usage) {
        self.spool_batches.set(usage.batches.cast_signed());
        self.spool_ram.set(usage.ram_bytes.cast_signed());
        self.spool_disk.set(usage.disk_bytes.cast_signed());
        self.spool_allocated.set(usage.allocated_bytes.cast_signed());
        self.spool_sealed.set(usage.sealed_batches.cast_signed());
        self.spool_write_failures.set(usage.write_failures.cast_signed());
    }

    /// Batches in the spool, as of its last change.
    pub fn waiting_batches(&self) -> i64 {
        self.spool_batches.get()
    }

    /// Registers everything.
    pub fn registry(&self) -> Registry {
        let mut registry = Registry::with_prefix("etcdmon_agent");
        let mut gauge =
            |name: &str, help: &str, metric: &Gauge| registry.register(name, help, metric.clone());
        gauge("members", "etcd processes found on this node", &self.members);
        gauge("send_connected", "1 while the batch stream to the aggregator stands", &self.connected);
        gauge("spool_batches", "Batches that wait for their acknowledgement", &self.spool_batches);
        gauge("spool_sealed_batches", "Batches whose key is not known", &self.spool_sealed);
        gauge("spool_write_failures", "Writes to the spool that failed", &self.spool_write_failures);
        gauge("flight_records", "Syncs in the flight recorder", &self.flight_records);
        registry.register_with_unit(
            "flight_memory",
            "Memory of the flight recorder",
            Unit::Bytes,
            self.flight_memory.clone(),
        );
        registry.register_with_unit(
            "tls_certificate_expiry",
            "End of life of the certificate from enrolment, Unix time; 0 = none",
            Unit::Seconds,
            self.certificate_expiry.clone(),
        );
        registry.register_with_unit("spool_ram", "Batches in memory", Unit::Bytes, self.spool_ram.clone());
        registry.register_with_unit(
            "spool_disk",
            "Files with batches on disk",
            Unit::Bytes,
            self.spool_disk.clone(),
        );
        registry.register_with_unit(
            "spool_allocated",
            "All files of the spool, free ones included",
            Unit::Bytes,
            self.spool_allocated.clone(),
        );
        let mut counter = |name: &str, help: &str, metric: &Counter| {
            registry.register(name, help, metric.clone());
        };
        counter("hub_unidentified_facts", "Facts sent without ids of their member", &self.unidentified_facts);
        counter("hub_notes_lost", "Notes of the probes that found no room", &self.notes_lost);
        counter("probe_snapshots_put_off", "Snapshots put off, none lost", &self.snapshots_put_off);
        counter("encode_batches", "Batches closed", &self.batches);
        counter("encode_batch_bytes", "Bytes of closed batches", &self.batch_bytes);
        counter("send_acknowledged_batches", "Batches that are durable", &self.acknowledged);
        counter("send_refused_batches", "Batches that the aggregator refused", &self.refused);
        counter("send_unknown_rows", "Rows of a kind that the aggregator does not know", &self.unknown_rows);
        counter("enrol_certificates", "Certificates that enrolment brought", &self.enrolments);
        counter("enrol_failures", "Enrolments and renewals that failed", &self.enrolment_failures);
        counter("send_connections", "Connections made to the aggregator", &self.connections);
        counter("flight_rows", "Rows from the flight recorder", &self.flight_rows);
        counter("flight_dumps", "Dumps of the flight recorder", &self.flight_dumps);
        counter("flight_suppressed", "Triggers too soon after a dump", &self.flight_suppressed);
        counter("send_late_summaries", "Live summaries sent after a break", &self.live_late);
        counter("send_forgotten_summaries", "Live summaries never delivered", &self.live_forgotten);
        counter(
            "spool_corrupt_bytes",
            "Bytes of the spool that could not be read",
            &self.spool_corrupt_bytes,
        );
        self.collections.register(&mut registry);
        registry.register(
            "aggregator_breaker_state",
            "Circuit breaker of a stream: 0 closed, 1 half-open, 2 open",
            self.breaker_state.clone(),
        );
        registry.register(
            "aggregator_breaker_failures",
            "Failed attempts of a stream in a row",
            self.breaker_failures.clone(),
        );
        registry.register("encode_produced", "Rows produced, by stream", self.produced.clone());
        registry.register("spool_dropped", "Rows dropped, by stream and reason", self.dropped.clone());
        registry.register("probe_kernel_losses", "Missed in the kernel", self.kernel_losses.clone());
        registry
    }

    /// The page for `/metrics`.
    pub fn page(&self, registry: &Registry) -> String {
        let mut page = match self.page.lock() {
            Ok(page) => page,
            Err(poisoned) => poisoned.into_inner(),
        };
        page.clear();
        // Writing to a string can't fail.
        let _infallible = encode(&mut *page, registry);
        page.clone()
    }
}
