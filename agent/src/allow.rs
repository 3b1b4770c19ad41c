//! What the centre may ask of this node. The list is in the node's own settings, so the node has the last word: whatever
//! is not on it is refused here, whoever asks. It is empty unless somebody on the node fills it.
//!
//! There are no commands yet. The list is checked at start, told to the aggregator with Hello, and is the one question
//! that every command will have to ask first.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use etcdmon_service::settings::ParseSetting;

/// Something that the centre can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Command {
    /// etcdctl commands that only read.
    EtcdctlRead,
    /// etcdctl commands that write keys, members, users or roles.
    EtcdctlWrite,
    /// Load on etcd.
    Benchmark,
    /// Writes and syncs on a directory of etcd's disk.
    DiskCheck,
    /// A snapshot of the backend.
    Snapshot,
    /// Defragmentation of the backend.
    Defrag,
    /// Probes in etcd's own code.
    ProbeUprobes,
}

impl Command {
    /// Every command, by name.
    pub const ALL: [Self; 7] = [
        Self::EtcdctlRead,
        Self::EtcdctlWrite,
        Self::Benchmark,
        Self::DiskCheck,
        Self::Snapshot,
        Self::Defrag,
        Self::ProbeUprobes,
    ];

    /// Its name in settings, on the wire and in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::EtcdctlRead => "etcdctl.read",
            Self::EtcdctlWrite => "etcdctl.write",
            Self::Benchmark => "benchmark",
            Self::DiskCheck => "disk-check",
            Self::Snapshot => "snapshot",
            Self::Defrag => "defrag",
            Self::ProbeUprobes => "probe.uprobes",
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.name())
    }
}

impl FromStr for Command {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|command| command.name() == text).ok_or(
            "a command: etcdctl.read, etcdctl.write, benchmark, disk-check, snapshot, defrag or probe.uprobes",
        )
    }
}

impl ParseSetting for Command {
    fn parse(text: &str) -> Result<Self, &'static str> {
        text.parse()
    }
}

/// A request that this node does not allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{command} is not allowed on this node: it is not in commands.allow of the agent's own settings")]
pub struct Refused {
    /// What was asked for.
    pub command: String,
}

/// The node's own list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowList(BTreeSet<Command>);

impl AllowList {
    /// With these commands and no other.
    pub fn new(commands: impl IntoIterator<Item = Command>) -> Self {
        Self(commands.into_iter().collect())
    }

    /// The command of this name, if the node allows it. One permission never implies another.
    ///
    /// # Errors
    /// When it is not on the list, or no command at all.
    pub fn check(&self, name: &str) -> Result<Command, Refused> {
        let known = name.parse().ok().filter(|command| self.0.contains(command));
        known.ok_or_else(|| Refused { command: name.to_owned() })
    }

    /// The names on it, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.0.iter().map(Command::to_string).collect();
        names.sort();
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_allowed_unless_the_node_says_so() {
        for command in Command::ALL {
            let refused = AllowList::default().check(command.name()).expect_err("an empty list");
            assert!(refused.to_string().starts_with(command.name()), "{refused}");
        }
    }

    #[test]
    fn only_what_is_listed_is_allowed() {
        let list = AllowList::new([Command::Snapshot, Command::EtcdctlWrite]);
        assert_eq!(list.check("snapshot"), Ok(Command::Snapshot));
        for other in ["etcdctl.read", "etcdctl", "Snapshot", "snapshot ", "", "reboot"] {
            assert!(list.check(other).is_err(), "{other}");
        }
        assert_eq!(list.names(), ["etcdctl.write", "snapshot"]);
    }

    #[test]
    fn every_name_reads_back() {
        for command in Command::ALL {
            assert_eq!(command.name().parse(), Ok(command));
        }
        let expected = "nonsense".parse::<Command>().expect_err("unknown");
        assert!(Command::ALL.iter().all(|command| expected.contains(command.name())), "{expected}");
    }
}
