//! The tables, as this program writes them. The schema in `schema/` creates them; a test compares the two.

/// A table that is written row by row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Every sync, counted in a histogram a second.
    SyncHistograms,
    /// Slow syncs and a sample of the others.
    Syncs,
    /// Writes, counted a second.
    Writes,
    /// Samples of series.
    Metrics,
    /// Things that happened.
    Events,
    /// What was produced and what became of it.
    Ledger,
    /// Slow syncs that were examined.
    Autopsies,
    /// What became of alerts.
    Alerts,
    /// What became of diagnoses.
    Diagnoses,
}

/// Type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `UUID`
    Uuid,
    /// `UInt64`
    U64,
    /// `UInt32`
    U32,
    /// `Int32`
    I32,
    /// `Float64`
    F64,
    /// `DateTime64(9, 'UTC')`
    Time,
    /// `LowCardinality(String)`
    Text,
    /// `String`
    Long,
    /// `Map(UInt16, UInt64)`
    Histogram,
}

impl Kind {
    /// The type in SQL.
    pub const fn sql(self) -> &'static str {
        match self {
            Self::Uuid => "UUID",
            Self::U64 => "UInt64",
            Self::U32 => "UInt32",
            Self::I32 => "Int32",
            Self::F64 => "Float64",
            Self::Time => "DateTime64(9, 'UTC')",
            Self::Text => "LowCardinality(String)",
            Self::Long => "String",
            Self::Histogram => "Map(UInt16, UInt64)",
        }
    }
}

type Columns = &'static [(&'static str, Kind)];

macro_rules! table {
    ($($name:literal $kind:ident),* $(,)?) => {
        &[
            ("agent", Kind::Uuid),
            ("epoch", Kind::Uuid),
            ("sequence", Kind::U64),
            ("row", Kind::U32),
            ("cluster", Kind::Text),
            ("member", Kind::U64),
            ("at", Kind::Time),
            $(($name, Kind::$kind)),*
        ]
    };
}

const SYNC_HISTOGRAMS: Columns = table!(
    "class" Text, "hook" Text, "buckets" Histogram, "count" U64, "sum_ns" U64, "errors" U64, "run_delay_ns" U64,
);

const SYNCS: Columns = table!(
    "class" Text, "boot" Uuid, "start_mono_ns" U64, "latency_ns" U64, "pid" U32, "thread_id" U32, "run_delay_ns" U64,
    "written_bytes" U64, "inode" U64, "device" U32, "result" I32, "reason" Text, "sample_every" U32, "slow_ns" U64,
);

const WRITES: Columns = table!(
    "class" Text, "written_bytes" U64, "observed_ns" U64, "calls" U64, "buckets" Histogram, "sum_ns" U64,
    "sync_file_range_calls" U64,
);

const METRICS: Columns = table!("name" Text, "labels" Text, "type" Text, "value" F64);

const EVENTS: Columns = table!("kind" Text, "details" Long);

const LEDGER: Columns = table!(
    "stream" Text, "kind" Text, "reason" Text, "count" U64, "blind_from" Time, "blind_to" Time,
);

const AUTOPSIES: Columns = table!(
    "class" Text, "boot" Uuid, "start_mono_ns" U64, "latency_ns" U64, "pid" U32, "thread_id" U32, "inode" U64, "device" U32,
    "threshold_ns" U64, "on_cpu_ns" U64, "run_queue_ns" U64, "journal_ns" U64, "queue_ns" U64, "device_ns" U64, "flush_ns" U64,
    "throttle_ns" U64, "steal_ns" U64, "unexplained_ns" U64, "journal_device_ns" U64, "journal_queue_ns" U64,
    "journal_flush_ns" U64, "cpu_quota_ns" U64, "wait_ns" U64, "gaps" Text, "culprits" Long,
);

const ALERTS: Columns = table!(
    "fingerprint" Long, "rule" Text, "severity" Text, "state" Text, "value" F64, "started_at" Time, "summary" Long,
    "labels" Long, "annotations" Long,
);

const DIAGNOSES: Columns = table!(
    "incident" Uuid, "state" Text, "cause" Text, "confidence" Text, "share" F64, "onset_at" Time, "culprit" Long,
    "summary" Long, "next_step" Long, "evidence" Long,
);

impl Table {
    /// Every table.
    pub const ALL: [Self; 9] = [
        Self::SyncHistograms,
        Self::Syncs,
        Self::Writes,
        Self::Metrics,
        Self::Events,
        Self::Ledger,
        Self::Autopsies,
        Self::Alerts,
        Self::Diagnoses,
    ];

    /// Position of the column `row`.
    pub const ROW: usize = 3;

    /// Position of the column `at`.
    pub const AT: usize = 6;

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SyncHistograms => "sync_histograms",
            Self::Syncs => "syncs",
            Self::Writes => "writes",
            Self::Metrics => "metrics",
            Self::Events => "events",
            Self::Ledger => "ledger",
            Self::Autopsies => "autopsies",
            Self::Alerts => "alerts",
            Self::Diagnoses => "diagnoses",
        }
    }

    /// Its columns in the order they are written. The first seven are the same in every table.
    pub const fn columns(self) -> Columns {
        match self {
            Self::SyncHistograms => SYNC_HISTOGRAMS,
            Self::Syncs => SYNCS,
            Self::Writes => WRITES,
            Self::Metrics => METRICS,
            Self::Events => EVENTS,
            Self::Ledger => LEDGER,
            Self::Autopsies => AUTOPSIES,
            Self::Alerts => ALERTS,
            Self::Diagnoses => DIAGNOSES,
        }
    }

    /// The statement whose body is a block in Native format.
    pub fn insert_statement(self) -> String {
        let names: Vec<String> = self.columns().iter().map(|(name, _)| format!("`{name}`")).collect();
        format!("INSERT INTO `{}` ({}) FORMAT Native", self.name(), names.join(", "))
    }
}
