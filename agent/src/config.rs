//! The agent's settings.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::ArgMatches;
use etcdmon_service::logging::Format;
use etcdmon_service::secret::Secret;
use etcdmon_service::settings::{ByteSize, Faults, Millis, ParseSetting, Schema, Setting, Settings, Source};

use crate::allow::AllowList;
use crate::collect::Periods;
use crate::discover::TlsFiles;
use crate::encode::Sampling;
use crate::spool::{Key, Keys, Limits, WhenFull};

/// Least room for the spool on disk: four segments of one batch each.
const LEAST_SPOOL_BYTES: u64 = 16 << 20;

/// Least and most memory for the flight recorder: it is never off, and never a burden.
const FLIGHT_BYTES: (usize, usize) = (1 << 20, 64 << 20);

/// Least memory for the spool: a few batches of the largest size.
const LEAST_RAM_BYTES: u64 = 8 << 20;

/// Least write rate of the spool: below it a busy node could not even write its own facts.
const LEAST_WRITE_RATE: u64 = 64 << 10;

/// Shortest period of the collectors.
const LEAST_INTERVAL: Duration = Duration::from_millis(200);

/// Longest period of the collectors (S7).
const MOST_INTERVAL: Duration = Duration::from_secs(300);

/// Every setting of the agent.
pub const SCHEMA: Schema = Schema {
    env_prefix: "ETCD_MONITOR_AGENT",
    settings: &[
        Setting::new("aggregator.url", "URL", "http://127.0.0.1:8461", "The aggregator's gRPC address"),
        Setting::new("aggregator.ca-file", "FILE", "", "Authority that signed the aggregator's certificate"),
        Setting::new("aggregator.cert-file", "FILE", "", "This agent's certificate for the aggregator"),
        Setting::new("aggregator.key-file", "FILE", "", "Key of that certificate"),
        Setting::new(
            "aggregator.proxy",
            "URL",
            "",
            "HTTP proxy on the way there; empty = HTTPS_PROXY and NO_PROXY; with a password by environment or file only",
        )
        .secret(),
        Setting::new(
            "enrol.token-file",
            "FILE",
            "",
            "Join token; with it the agent gets a certificate from the aggregator and renews it",
        ),
        Setting::new("enrol.token", "TOKEN", "", "Join token; give it by environment variable, not as a flag")
            .secret(),
        Setting::new(
            "state.dir",
            "DIR",
            "/var/lib/etcd-monitor/agent",
            "Where the agent's id and the spool are",
        ),
        Setting::new(
            "listen.admin",
            "ADDRESS",
            "127.0.0.1:8462",
            "Loopback address of /livez /readyz /metrics",
        ),
        Setting::new(
            "listen.admin-control",
            "BOOL",
            "false",
            "Also serve PUT /probes?enabled=true|false there",
        ),
        Setting::new(
            "discovery.only-data-dir",
            "PREFIX",
            "",
            "Watch only etcds with their data below; empty = all",
        )
        .list(),
        Setting::new(
            "discovery.journal-dir",
            "DIR",
            "",
            "Where journald keeps its files; empty = /var/log/journal and /run/log/journal",
        )
        .list(),
        Setting::new("collect.interval", "TIME", "1s", "Period of collectors without one of their own"),
        Setting::new("collect.metrics-interval", "TIME", "", "Period of etcd's /metrics"),
        Setting::new(
            "collect.status-interval",
            "TIME",
            "",
            "Period of Maintenance.Status and the member list",
        ),
        Setting::new(
            "collect.process-interval",
            "TIME",
            "",
            "Period of CPU, memory and IO of etcd's process",
        ),
        Setting::new("collect.threads-interval", "TIME", "", "Period of run-queue delay of etcd's threads"),
        Setting::new(
            "collect.cgroup-interval",
            "TIME",
            "",
            "Period of limits and throttling of etcd's cgroup",
        ),
        Setting::new("collect.disk-interval", "TIME", "", "Period of activity and space of etcd's disks"),
        Setting::new("collect.node-interval", "TIME", "", "Period of the node's CPU, memory and clock"),
        Setting::new("collect.network-interval", "TIME", "", "Period of the node's interfaces and TCP"),
        Setting::new("probe.enabled", "BOOL", "true", "Count syncs and writes in the kernel"),
        Setting::new(
            "probe.sample-every",
            "N",
            "100",
            "One in N syncs that are not slow has a row; 0 = none",
        ),
        Setting::new("probe.slow-threshold", "TIME", "10ms", "A sync at least this long has a row"),
        Setting::new(
            "probe.write-slot",
            "TIME",
            "30ms",
            "How long write calls are observed at a time; 0 = never",
        ),
        Setting::new("probe.write-period", "TIME", "10s", "How often write calls are observed"),
        Setting::new(
            "flight.max-bytes",
            "SIZE",
            "8MiB",
            "Memory of the flight recorder, which keeps every sync of the last minutes",
        ),
        Setting::new(
            "flight.dump-latency",
            "TIME",
            "250ms",
            "A sync at least this long makes the flight recorder keep what was around it; 0 = none does",
        ),
        Setting::new("probe.record-every-sync", "BOOL", "false", "Every sync has a row"),
        Setting::new("spool.max-bytes", "SIZE", "1GiB", "Most room on disk for batches that can't be sent"),
        Setting::new("spool.ram-bytes", "SIZE", "16MiB", "Most memory for batches that are not acknowledged"),
        Setting::new(
            "spool.write-bytes-per-second",
            "SIZE",
            "8MiB",
            "Most that is written to disk; what is above it waits in memory; 0 = no limit",
        ),
        Setting::new(
            "spool.when-full",
            "POLICY",
            "drop-oldest",
            "What goes when there is no room: drop-oldest or drop-newest",
        ),
        Setting::new(
            "spool.key-file",
            "FILE",
            "",
            "Key that batches on disk are encrypted with: 32 bytes, raw or base64",
        ),
        Setting::new(
            "spool.old-key-file",
            "FILE",
            "",
            "Key that they were encrypted with before; only decrypts",
        ),
        Setting::new(
            "etcd.cert-file",
            "FILE",
            "",
            "Client certificate for etcd, in place of what its flags name",
        ),
        Setting::new("etcd.key-file", "FILE", "", "Key of that certificate"),
        Setting::new(
            "etcd.ca-file",
            "FILE",
            "",
            "Authority of etcd's certificates, in place of what its flags name",
        ),
        Setting::new(
            "commands.allow",
            "NAME",
            "",
            "What the aggregator may ask of this node, such as snapshot; empty = nothing",
        )
        .list(),
        Setting::new("log.format", "FORMAT", "text", "text or json"),
        Setting::new("log.filter", "FILTER", "info", "What is logged, such as info,etcdmon_agent=debug"),
    ],
};

impl ParseSetting for WhenFull {
    fn parse(text: &str) -> Result<Self, &'static str> {
        match text {
            "drop-oldest" => Ok(Self::DropOldest),
            "drop-newest" => Ok(Self::DropNewest),
            _ => Err("drop-oldest or drop-newest"),
        }
    }
}

fn read_key(settings: &mut Settings, setting: &'static str) -> Option<Key> {
    let path: PathBuf = settings.optional(setting)?;
    Key::read(&path).map_err(|error| settings.fault(setting, error)).ok()
}

/// How to reach the aggregator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AggregatorConfig {
    /// `http://` or `https://`.
    pub url: String,
    /// TLS files; used with `https://`.
    pub tls: TlsFiles,
    /// HTTP proxy on the way.
    pub proxy: Option<Secret>,
}

/// Where the join token comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenSource {
    /// From a file, read with every try.
    pub file: Option<PathBuf>,
    /// From the settings.
    pub text: Option<Secret>,
}

impl TokenSource {
    /// The token of the moment; `None` when there is none.
    ///
    /// # Errors
    /// When the file can't be read. One that is not there is none.
    pub fn read(&self) -> std::io::Result<Option<Secret>> {
        let Some(path) = &self.file else { return Ok(self.text.clone()) };
        match std::fs::read_to_string(path) {
            Ok(text) if text.trim().is_empty() => Ok(None),
            Ok(text) => Ok(Some(Secret::new(text.trim()))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The agent's settings, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Where batches go.
    pub aggregator: AggregatorConfig,
    /// Where the join token comes from.
    pub join_token: TokenSource,
    /// Directory of the agent's own state.
    pub state_dir: PathBuf,
    /// Loopback address.
    pub admin: SocketAddr,
    /// Whether the probes can be switched there.
    pub admin_control: bool,
    /// Prefixes of data directories; empty = all.
    pub only_data_dir: Vec<PathBuf>,
    /// Where journald keeps its files; empty = where it does by itself.
    pub journal_dirs: Vec<PathBuf>,
    /// Periods of the collectors.
    pub periods: Periods,
    /// Whether syncs are counted in the kernel.
    pub probes_enabled: bool,
    /// Which syncs have a row.
    pub sampling: Sampling,
    /// Memory of the flight recorder.
    pub flight_bytes: usize,
    /// Latency of a sync that triggers a dump of it.
    pub dump_latency: Duration,
    /// Length of a write slot.
    pub write_slot: Duration,
    /// Period of write slots.
    pub write_period: Duration,
    /// Room for batches.
    pub spool: Limits,
    /// What the aggregator may ask of this node.
    pub allowed_commands: AllowList,
    /// Keys for batches on disk.
    pub spool_keys: Keys,
    /// Certificates for etcd.
    pub etcd_tls: TlsFiles,
    /// How log lines look.
    pub log_format: Format,
    /// What is logged.
    pub log_filter: String,
    /// Every setting as text, for the log.
    pub effective: Vec<(String, String)>,
}

impl Config {
    /// From all layers.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub fn load(
        flags: &ArgMatches,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Faults> {
        let mut settings = SCHEMA.load(flags, environment)?;
        let config = Self::read(&mut settings);
        config.check(&mut settings);
        settings.finish()?;
        Ok(config)
    }

    fn read(settings: &mut Settings) -> Self {
        let millis = |settings: &mut Settings, key| settings.read::<Millis>(key).0;
        let tls = |settings: &mut Settings, ca, cert, key| TlsFiles {
            ca: settings.optional(ca),
            cert: settings.optional(cert),
            key: settings.optional(key),
        };
        let sample_every = settings.read::<u64>("probe.sample-every");
        let every_sync = settings.read::<bool>("probe.record-every-sync");
        Self {
            aggregator: AggregatorConfig {
                url: settings.read("aggregator.url"),
                tls: tls(settings, "aggregator.ca-file", "aggregator.cert-file", "aggregator.key-file"),
                proxy: settings.optional("aggregator.proxy"),
            },
            join_token: TokenSource {
                file: settings.optional("enrol.token-file"),
                text: settings.optional("enrol.token"),
            },
            state_dir: settings.read("state.dir"),
            admin: settings.read("listen.admin"),
            admin_control: settings.read("listen.admin-control"),
            only_data_dir: settings.list("discovery.only-data-dir"),
            journal_dirs: settings.list("discovery.journal-dir"),
            periods: periods(settings),
            probes_enabled: settings.read("probe.enabled"),
            sampling: Sampling {
                sample_every: if every_sync { 1 } else { u32::try_from(sample_every).unwrap_or(u32::MAX) },
                slow_ns: u64::try_from(millis(settings, "probe.slow-threshold").as_nanos())
                    .unwrap_or(u64::MAX),
            },
            flight_bytes: usize::try_from(settings.read::<ByteSize>("flight.max-bytes").0)
                .unwrap_or(usize::MAX),
            dump_latency: millis(settings, "flight.dump-latency"),
            write_slot: millis(settings, "probe.write-slot"),
            write_period: millis(settings, "probe.write-period"),
            spool: Limits {
                disk_bytes: settings.read::<ByteSize>("spool.max-bytes").0,
                ram_bytes: settings.read::<ByteSize>("spool.ram-bytes").0,
                write_bytes_per_second: settings.read::<ByteSize>("spool.write-bytes-per-second").0,
                when_full: settings.read("spool.when-full"),
            },
            spool_keys: Keys {
                current: read_key(settings, "spool.key-file"),
                old: read_key(settings, "spool.old-key-file"),
            },
            allowed_commands: AllowList::new(settings.list("commands.allow")),
            etcd_tls: tls(settings, "etcd.ca-file", "etcd.cert-file", "etcd.key-file"),
            log_format: settings.read("log.format"),
            log_filter: settings.read("log.filter"),
            effective: settings.effective().into_iter().map(|(key, text, _)| (key, text)).collect(),
        }
    }

    fn check_enrolment(&self, settings: &mut Settings) {
        let given = [
            ("enrol.token-file", self.join_token.file.is_some()),
            ("enrol.token", self.join_token.text.is_some()),
        ];
        if given.iter().all(|(_, given)| *given) {
            settings.fault("enrol.token", "is given together with enrol.token-file; give one of them");
        }
        for (key, _) in given.iter().filter(|(_, given)| *given) {
            if !self.aggregator.url.starts_with("https:") {
                settings.fault(key, "needs an aggregator.url with https: a token must not travel in clear");
            }
            if self.aggregator.tls.cert.is_some() {
                settings.fault(key, "is given together with aggregator.cert-file; give one of them");
            }
        }
        for key in ["enrol.token", "aggregator.proxy"] {
            let is_flag = matches!(settings.source(key), Source::Flag(_));
            let is_secret = key == "enrol.token"
                || self.aggregator.proxy.as_ref().is_some_and(|url| url.reveal().contains('@'));
            if is_flag && is_secret {
                settings
                    .fault(key, "a flag shows it to every user of the host; use the environment or the file");
            }
        }
        if let Some(proxy) = &self.aggregator.proxy {
            let url: Result<hyper::Uri, _> = proxy.reveal().parse();
            if !url.is_ok_and(|url| url.scheme_str() == Some("http") && url.host().is_some()) {
                settings.fault("aggregator.proxy", "is not a URL such as http://proxy:3128");
            }
        }
    }

    /// Faults that only show when settings are seen together, or against their bounds.
    fn check(&self, settings: &mut Settings) {
        let url: Result<hyper::Uri, _> = self.aggregator.url.parse();
        let scheme = url.as_ref().ok().and_then(|url| url.host().and(url.scheme_str())).map(str::to_owned);
        match scheme.as_deref() {
            Some("https") => {}
            Some("http") if self.aggregator.tls == TlsFiles::default() => {}
            Some("http") => {
                settings.fault("aggregator.url", "is http, but certificates are set: https expected")
            }
            _ => settings.fault("aggregator.url", "is not a URL such as http://127.0.0.1:8461"),
        }
        self.check_enrolment(settings);
        let pairs = [
            ("aggregator.cert-file", "aggregator.key-file", &self.aggregator.tls),
            ("etcd.cert-file", "etcd.key-file", &self.etcd_tls),
        ];
        for (cert, key, files) in pairs {
            match (&files.cert, &files.key) {
                (Some(_), None) => settings.fault(cert, format!("needs {key} as well")),
                (None, Some(_)) => settings.fault(key, format!("needs {cert} as well")),
                _ => {}
            }
        }
        if !self.admin.ip().is_loopback() {
            settings.fault("listen.admin", "is not a loopback address");
        }
        if self.write_slot > Duration::ZERO && self.write_period.as_secs() == 0 {
            settings.fault("probe.write-period", "is below 1 s");
        }
        if self.write_slot >= self.write_period && self.write_slot > Duration::ZERO {
            settings.fault("probe.write-slot", "is not shorter than probe.write-period");
        }
        if !(FLIGHT_BYTES.0..=FLIGHT_BYTES.1).contains(&self.flight_bytes) {
            let (least, most) = FLIGHT_BYTES;
            settings.fault("flight.max-bytes", format!("is not between {least} and {most} bytes"));
        }
        if self.spool.disk_bytes < LEAST_SPOOL_BYTES {
            settings.fault("spool.max-bytes", format!("is below {LEAST_SPOOL_BYTES} bytes"));
        }
        let rate = self.spool.write_bytes_per_second;
        if rate > 0 && rate < LEAST_WRITE_RATE {
            settings.fault(
                "spool.write-bytes-per-second",
                format!("is below {LEAST_WRITE_RATE} bytes; 0 = no limit"),
            );
        }
        if self.spool.ram_bytes < LEAST_RAM_BYTES {
            settings.fault("spool.ram-bytes", format!("is below {LEAST_RAM_BYTES} bytes"));
        }
        if self.only_data_dir.iter().any(|prefix| !prefix.is_absolute()) {
            settings.fault("discovery.only-data-dir", "holds a path that is not absolute");
        }
        if self.journal_dirs.iter().any(|directory| !directory.is_absolute()) {
            settings.fault("discovery.journal-dir", "holds a path that is not absolute");
        }
        for (key, file) in [
            ("aggregator.ca-file", &self.aggregator.tls.ca),
            ("aggregator.cert-file", &self.aggregator.tls.cert),
            ("aggregator.key-file", &self.aggregator.tls.key),
            ("etcd.ca-file", &self.etcd_tls.ca),
            ("etcd.cert-file", &self.etcd_tls.cert),
            ("etcd.key-file", &self.etcd_tls.key),
        ] {
            if let Some(Err(error)) = file.as_ref().map(std::fs::File::open) {
                settings.fault(key, error);
            }
        }
    }
}

/// Periods of the collectors, each its own or the one of all.
fn periods(settings: &mut Settings) -> Periods {
    fn within(settings: &mut Settings, key: &'static str, period: Duration) -> Duration {
        if period < LEAST_INTERVAL {
            settings.fault(key, format!("is below {} ms", LEAST_INTERVAL.as_millis()));
        } else if period > MOST_INTERVAL {
            settings.fault(key, format!("is above {} s", MOST_INTERVAL.as_secs()));
        }
        period
    }
    let of_all = settings.read::<Millis>("collect.interval").0;
    let of_all = within(settings, "collect.interval", of_all);
    let mut own = |key| match settings.optional::<Millis>(key) {
        Some(period) => within(settings, key, period.0),
        None => of_all,
    };
    Periods {
        metrics: own("collect.metrics-interval"),
        status: own("collect.status-interval"),
        process: own("collect.process-interval"),
        threads: own("collect.threads-interval"),
        cgroup: own("collect.cgroup-interval"),
        disk: own("collect.disk-interval"),
        node: own("collect.node-interval"),
        network: own("collect.network-interval"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(arguments: &[&str], environment: &[(&str, &str)]) -> Result<Config, Faults> {
        let command = SCHEMA.add_flags(clap::Command::new("agent"));
        let flags = command.get_matches_from([&["agent"], arguments].concat());
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Config::load(&flags, environment.collect::<Vec<_>>())
    }

    #[test]
    fn without_any_setting_the_defaults_are_those_of_the_reference() {
        let config = load(&[], &[]).expect("defaults are good");
        assert_eq!(config.aggregator.url, "http://127.0.0.1:8461");
        assert_eq!(config.sampling, Sampling { sample_every: 100, slow_ns: 10_000_000 });
        assert_eq!((config.spool.disk_bytes, config.spool.write_bytes_per_second), (1 << 30, 8 << 20));
        assert_eq!((config.spool.when_full, &config.spool_keys), (WhenFull::DropOldest, &Keys::default()));
        assert_eq!(config.only_data_dir, Vec::<PathBuf>::new());
        assert!(config.probes_enabled && !config.admin_control);
    }

    #[test]
    fn all_faults_come_at_once_with_their_source() {
        let faults = load(
            &["--aggregator-url", "nonsense", "--listen-admin", "0.0.0.0:1", "--spool-max-bytes", "1KiB"],
            &[("ETCD_MONITOR_AGENT_ETCD_CERT_FILE", "/none"), ("ETCD_MONITOR_AGENT_COLLECT_INTERVAL", "1ms")],
        )
        .expect_err("six faults");
        let text = faults.to_string();
        assert_eq!(faults.0.len(), 6, "{text}");
        for part in [
            "aggregator.url: is not a URL",
            "(from flag --aggregator-url)",
            "listen.admin: is not a loopback address",
            "spool.max-bytes: is below",
            "etcd.cert-file: needs etcd.key-file",
            "collect.interval: is below 200 ms (from environment variable",
            "etcd.cert-file: No such file",
        ] {
            assert!(text.contains(part), "{part} not in {text}");
        }
    }

    #[test]
    fn a_join_token_needs_tls_and_is_no_flag() {
        let faults = load(&["--enrol-token", "emt1.a.b.c"], &[]).expect_err("twice wrong").to_string();
        assert!(
            faults.contains("must not travel in clear") && faults.contains("a flag shows it"),
            "{faults}"
        );
        let url = ["--aggregator-url", "https://monitor.invalid:8461"];
        let config = load(&url, &[("ETCD_MONITOR_AGENT_ENROL_TOKEN", "emt1.hidden-word")]).expect("good");
        assert!(config.join_token.text.is_some());
        assert!(!format!("{config:?}").contains("hidden-word"), "{config:?}");
        let proxy = [("ETCD_MONITOR_AGENT_AGGREGATOR_PROXY", "https://user:hidden-word@proxy.invalid")];
        let faults = load(&url, &proxy).expect_err("a proxy over TLS").to_string();
        assert!(faults.contains("is not a URL such as http://proxy:3128"), "{faults}");
        assert!(!faults.contains("hidden-word"), "{faults}");
    }

    #[test]
    fn commands_are_allowed_by_known_names_only() {
        let config =
            load(&["--commands-allow", "snapshot", "--commands-allow", "defrag"], &[]).expect("good");
        assert_eq!(config.allowed_commands.names(), ["defrag", "snapshot"]);
        let faults = load(&["--commands-allow", "reboot"], &[]).expect_err("unknown").to_string();
        assert!(faults.contains("commands.allow: \"reboot\" is not a command"), "{faults}");
    }

    #[test]
    fn a_collector_has_its_own_period_or_that_of_all() {
        let config = load(&["--collect-interval", "2s", "--collect-disk-interval", "5m"], &[]).expect("good");
        assert_eq!(config.periods.disk, Duration::from_secs(300));
        assert_eq!(config.periods.network, Duration::from_secs(2));
        let faults = load(&["--collect-disk-interval", "301s", "--collect-node-interval", "1ms"], &[]);
        let text = faults.expect_err("two faults").to_string();
        assert!(text.contains("collect.disk-interval: is above 300 s"), "{text}");
        assert!(text.contains("collect.node-interval: is below 200 ms"), "{text}");
    }

    #[test]
    fn a_key_is_read_at_start_and_never_shown() {
        let directory = tempfile::tempdir().expect("temp dir");
        let path = directory.path().join("spool.key");
        let file = path.to_str().expect("text");
        std::fs::write(&path, "0123456789abcdef0123456789abcdef").expect("write");
        let config =
            load(&["--spool-key-file", file, "--spool-when-full", "drop-newest"], &[]).expect("good");
        assert_eq!(config.spool.when_full, WhenFull::DropNewest);
        assert!(config.spool_keys.current.is_some() && config.spool_keys.old.is_none());
        assert!(!format!("{config:?}").contains("0123456789abcdef"));
        std::fs::write(&path, "0123456789abcdef").expect("write");
        let arguments = ["--spool-key-file", file, "--spool-when-full", "never"];
        let faults = load(&[&arguments[..], &["--spool-write-bytes-per-second", "1"]].concat(), &[]);
        let text = faults.expect_err("three faults").to_string();
        for part in [
            "spool.key-file: holds no key: 32 bytes expected",
            "spool.when-full: \"never\" is not drop-oldest or drop-newest",
            "spool.write-bytes-per-second: is below",
        ] {
            assert!(text.contains(part), "{part} not in {text}");
        }
        assert!(!text.contains("0123456789abcdef"), "{text}");
    }

    #[test]
    fn every_sync_can_have_a_row_and_a_scope_can_be_set() {
        let config = load(
            &[
                "--probe-record-every-sync",
                "true",
                "--discovery-only-data-dir",
                "/a",
                "--discovery-only-data-dir",
                "/b",
            ],
            &[],
        )
        .expect("good");
        assert_eq!(config.sampling.sample_every, 1);
        assert_eq!(config.only_data_dir, [PathBuf::from("/a"), PathBuf::from("/b")]);
    }
}
