//! Settings that change while the agent runs (S11). A file with a fault changes nothing.

use crate::config::Config;

/// Settings that take effect at once; every other one needs a restart.
const LIVE: [&str; 16] = [
    "collect.cgroup-interval",
    "collect.disk-interval",
    "collect.interval",
    "collect.metrics-interval",
    "collect.network-interval",
    "collect.node-interval",
    "collect.process-interval",
    "collect.status-interval",
    "collect.threads-interval",
    "flight.dump-latency",
    "log.filter",
    "probe.record-every-sync",
    "probe.sample-every",
    "probe.slow-threshold",
    "probe.write-period",
    "probe.write-slot",
];

/// What a new set of settings changes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Keys that take effect now.
    pub applied: Vec<String>,
    /// Keys that take effect with a restart.
    pub needs_restart: Vec<String>,
}

impl Changed {
    /// From settings that run, as [`Config::effective`] has them, to new ones.
    pub fn between(running: &[(String, String)], new: &[(String, String)]) -> Self {
        let mut changed = Self::default();
        for ((key, text), (_, running)) in new.iter().zip(running) {
            if text != running {
                let list = if LIVE.contains(&key.as_str()) {
                    &mut changed.applied
                } else {
                    &mut changed.needs_restart
                };
                list.push(key.clone());
            }
        }
        changed
    }
}

/// The settings that run after `new` was applied to `running`: what needs a restart stays as it is, and is named again
/// with the next reload.
pub fn apply(running: &mut Config, new: Config) {
    for ((key, text), (_, running)) in new.effective.iter().zip(&mut running.effective) {
        if LIVE.contains(&key.as_str()) {
            running.clone_from(text);
        }
    }
    running.periods = new.periods;
    running.sampling = new.sampling;
    running.dump_latency = new.dump_latency;
    running.write_slot = new.write_slot;
    running.write_period = new.write_period;
    running.log_filter = new.log_filter;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::SCHEMA;

    fn load(arguments: &[&str]) -> Config {
        let command = SCHEMA.add_flags(clap::Command::new("agent"));
        let flags = command.get_matches_from([&["agent"], arguments].concat());
        Config::load(&flags, Vec::<(String, String)>::new()).expect("good settings")
    }

    #[test]
    fn every_live_setting_exists() {
        let known: Vec<&str> = SCHEMA.settings.iter().map(|setting| setting.key).collect();
        for key in LIVE {
            assert!(known.contains(&key), "{key}");
        }
    }

    #[test]
    fn what_can_be_applied_is_and_the_rest_is_named_until_a_restart() {
        let mut running = load(&[]);
        let arguments = ["--probe-slow-threshold", "3ms", "--spool-max-bytes", "2GiB"];
        let changed = Changed::between(&running.effective, &load(&arguments).effective);
        assert_eq!(changed.applied, ["probe.slow-threshold"]);
        assert_eq!(changed.needs_restart, ["spool.max-bytes"]);
        apply(&mut running, load(&arguments));
        assert_eq!(running.sampling.slow_ns, 3_000_000);
        assert_eq!(running.spool.disk_bytes, 1 << 30, "as before");
        let changed = Changed::between(&running.effective, &load(&arguments).effective);
        assert_eq!((changed.applied.len(), changed.needs_restart.len()), (0, 1));
        let back = Changed::between(&running.effective, &load(&[]).effective);
        assert_eq!((back.applied.len(), back.needs_restart.len()), (1, 0));
    }
}
