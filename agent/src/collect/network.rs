//! Interfaces and TCP of the node: bytes, packets, errors and drops, retransmits, connections tracked.
//!
//! The network namespace of process 1 is read where the pid namespace is the node's; else the own one. Only interfaces with
//! hardware behind them (virtio included) and loopback have series: bridges and the interfaces of pods only carry on what
//! passed those, come and go, and can be thousands. How many were left out is counted.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::procfile::ProcFile;
use super::sheet::{Sheet, Slot};
use super::{CollectError, Collector};
use crate::clock::Reading;
use crate::hub::Note;

/// Most interfaces with series.
const INTERFACES_LIMIT: usize = 32;

/// Link speed and which interfaces are hardware are looked at on every so many collections.
const LINKS_EVERY: u64 = 60;

/// TCP counters and tracked connections are looked at on every so many collections.
const TCP_EVERY: u64 = 5;

/// Columns of `/proc/net/dev` behind the name.
const COLUMNS: [(usize, &str, &str); 8] = [
    (0, "bytes", "received"),
    (1, "packets", "received"),
    (2, "errors", "received"),
    (3, "drops", "received"),
    (8, "bytes", "sent"),
    (9, "packets", "sent"),
    (10, "errors", "sent"),
    (11, "drops", "sent"),
];

/// Columns of `/proc/net/snmp` (`Tcp`) and `/proc/net/netstat` (`TcpExt`): column, series, whether it is a counter.
const TCP: [(&str, &str, bool); 12] = [
    ("RetransSegs", "etcdmon_node_tcp_retransmitted_segments_total", true),
    ("OutSegs", "etcdmon_node_tcp_sent_segments_total", true),
    ("InErrs", "etcdmon_node_tcp_received_errors_total", true),
    ("AttemptFails", "etcdmon_node_tcp_failed_connects_total", true),
    ("EstabResets", "etcdmon_node_tcp_resets_total", true),
    ("CurrEstab", "etcdmon_node_tcp_established", false),
    ("ListenOverflows", "etcdmon_node_tcp_listen_overflows_total", true),
    ("ListenDrops", "etcdmon_node_tcp_listen_drops_total", true),
    ("TCPTimeouts", "etcdmon_node_tcp_timeouts_total", true),
    ("TCPSynRetrans", "etcdmon_node_tcp_syn_retransmits_total", true),
    ("TCPLostRetransmit", "etcdmon_node_tcp_lost_retransmits_total", true),
    ("TCPAbortOnTimeout", "etcdmon_node_tcp_aborts_on_timeout_total", true),
];

/// What an interface is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Loopback,
    Hardware,
    Virtual,
}

/// The collector of the node's network.
#[derive(Debug)]
pub struct NetworkCollector {
    period: Duration,
    class: PathBuf,
    devices: ProcFile,
    tcp: [ProcFile; 2],
    conntrack: [ProcFile; 2],
    /// Verdicts by name, taken anew now and then.
    links: Vec<(String, Link)>,
    round: u64,
    sheet: Sheet,
    left_out: Slot,
    tcp_slots: [Slot; TCP.len()],
    conntrack_slots: [Slot; 2],
}

impl NetworkCollector {
    /// Of this node.
    pub fn new(period: Duration) -> Self {
        let node = Path::new("/proc/1/net");
        // Without the right to look at process 1, or in a pid namespace, there is the own view.
        let net = if node.join("dev").exists() { node } else { Path::new("/proc/net") };
        Self::over(net, Path::new("/proc/sys/net/netfilter"), Path::new("/sys/class/net"), period)
    }

    fn over(net: &Path, netfilter: &Path, class: &Path, period: Duration) -> Self {
        let mut sheet = Sheet::new(period);
        let track = ["etcdmon_node_conntrack_entries", "etcdmon_node_conntrack_limit"];
        Self {
            period,
            class: class.to_owned(),
            devices: ProcFile::new(net.join("dev")),
            tcp: ["snmp", "netstat"].map(|name| ProcFile::new(net.join(name))),
            conntrack: ["nf_conntrack_count", "nf_conntrack_max"]
                .map(|name| ProcFile::new(netfilter.join(name))),
            links: Vec::new(),
            round: 0,
            left_out: sheet.gauge("etcdmon_node_network_interfaces_left_out", &[]),
            tcp_slots: TCP.map(
                |(_, name, counter)| {
                    if counter { sheet.counter(name, &[]) } else { sheet.gauge(name, &[]) }
                },
            ),
            conntrack_slots: track.map(|name| sheet.gauge(name, &[])),
            sheet,
        }
    }

    fn sample(&mut self) -> Result<(), CollectError> {
        let look_anew = self.round.is_multiple_of(LINKS_EVERY);
        let with_tcp = self.round.is_multiple_of(TCP_EVERY);
        self.round += 1;
        if look_anew {
            self.links.clear();
        }
        self.sample_devices(look_anew)?;
        if with_tcp {
            let mut found = [None; TCP.len()];
            for file in &mut self.tcp {
                if let Ok(text) = file.read() {
                    read_table(text, &mut found);
                }
            }
            self.sheet.set_all(&self.tcp_slots, found);
            // There only where connections are tracked.
            let [count, most] = &mut self.conntrack;
            let number = |file: &mut ProcFile| file.read().ok()?.trim().parse::<u64>().ok().map(|n| n as f64);
            self.sheet.set_all(&self.conntrack_slots, [number(count), number(most)]);
        }
        Ok(())
    }

    fn sample_devices(&mut self, with_speed: bool) -> Result<(), CollectError> {
        let (mut shown, mut left_out, mut lines) = (0, 0, 0);
        let text = self.devices.read()?;
        for (name, columns) in text.lines().filter_map(device_line) {
            lines += 1;
            let known = self.links.iter().find(|(known, _)| known == name).map(|(_, link)| *link);
            let link = known.unwrap_or_else(|| {
                let link = link_of(&self.class, name);
                self.links.push((name.to_owned(), link));
                link
            });
            if link == Link::Virtual || shown >= INTERFACES_LIMIT {
                left_out += 1;
                continue;
            }
            shown += 1;
            let slots = self.sheet.keyed(name, |sheet| {
                let series = |(_, what, direction): (usize, &str, &str)| {
                    let labels = [("device", name), ("direction", direction)];
                    sheet.counter(&format!("etcdmon_node_network_{what}_total"), &labels)
                };
                COLUMNS.map(series).into()
            });
            let value = |(column, ..): (usize, &str, &str)| columns.get(column).map(|number| *number as f64);
            self.sheet.set_all(&slots, COLUMNS.map(value));
            if with_speed && let Some(bits) = speed(&self.class, name) {
                let slots = self.sheet.keyed(&format!("speed {name}"), |sheet| {
                    vec![sheet.gauge("etcdmon_node_network_speed_bytes_per_second", &[("device", name)])]
                });
                self.sheet.set_all(&slots, [Some(bits / 8.0)]);
            }
        }
        if lines == 0 {
            return Err(self.devices.form_error());
        }
        self.sheet.set(self.left_out, f64::from(left_out));
        Ok(())
    }
}

/// Name and counters of a line of `/proc/net/dev`. The two lines of titles have no colon, or no number behind it.
fn device_line(line: &str) -> Option<(&str, Vec<u64>)> {
    let (name, numbers) = line.rsplit_once(':')?;
    let numbers: Vec<u64> = numbers.split_ascii_whitespace().map_while(|word| word.parse().ok()).collect();
    let name = name.trim();
    (!name.is_empty() && !name.contains('/') && numbers.len() >= 12).then_some((name, numbers))
}

/// Where `/sys` does not show this network namespace, nothing is known to be virtual but what its name tells.
fn link_of(class: &Path, name: &str) -> Link {
    if name == "lo" {
        return Link::Loopback;
    }
    let directory = class.join(name);
    if directory.exists() {
        let hardware = directory.join("device").exists();
        return if hardware { Link::Hardware } else { Link::Virtual };
    }
    let made_up =
        ["veth", "br-", "docker", "cali", "cni", "flannel", "vxlan", "tun", "tap", "ifb", "dummy", "lxc"];
    if made_up.iter().any(|prefix| name.starts_with(prefix)) { Link::Virtual } else { Link::Hardware }
}

/// Bits a second; virtual hardware does not know.
fn speed(class: &Path, name: &str) -> Option<f64> {
    let text = super::disk::device::attribute(&class.join(name).join("speed"))?;
    let megabits = text.parse::<u64>().ok()?;
    Some(megabits as f64 * 1e6)
}

/// Takes from pairs of lines (`Tcp: A B` and `Tcp: 1 2`) the columns of [`TCP`].
fn read_table(text: &str, found: &mut [Option<f64>; TCP.len()]) {
    let mut lines = text.lines();
    while let (Some(names), Some(values)) = (lines.next(), lines.next()) {
        let (Some((kind, names)), Some((same, values))) = (names.split_once(':'), values.split_once(':'))
        else {
            return;
        };
        if kind != same || !matches!(kind, "Tcp" | "TcpExt") {
            continue;
        }
        for (name, value) in names.split_ascii_whitespace().zip(values.split_ascii_whitespace()) {
            if let Some(index) = TCP.iter().position(|(known, ..)| *known == name) {
                found[index] = value.parse::<u64>().ok().map(|value| value as f64);
            }
        }
    }
}

impl Collector for NetworkCollector {
    fn name(&self) -> &'static str {
        "network"
    }

    fn period(&self) -> Duration {
        self.period
    }

    async fn collect(&mut self, now: Reading) -> Result<Vec<Note>, CollectError> {
        self.sample()?;
        Ok(self.sheet.take(None, now))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;

    use super::*;
    use crate::collect::sheet::values_of;

    fn values(collector: &mut NetworkCollector) -> BTreeMap<String, f64> {
        collector.sample().expect("read");
        values_of(&collector.sheet.take(None, Reading { mono_ns: 1, wall_ns: 1 }))
    }

    const DEV: &str = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 100 10 0 0 0 0 0 0 100 10 0 0 0 0 0 0
  eth0:3078752395  124169    1    2    0     0          0         0  7864020   86115    3    4    0     0       0          0
 veth9: 5 5 0 0 0 0 0 0 5 5 0 0 0 0 0 0
eth0:1: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0
 short: 1 2 3
";
    const SNMP: &str =
        "Ip: A B\nIp: 1 2\nTcp: RtoAlgorithm MaxConn CurrEstab RetransSegs OutSegs\nTcp: 1 -1 7 42 1000\n";
    const NETSTAT: &str =
        "TcpExt: SyncookiesSent ListenOverflows TCPTimeouts\nTcpExt: 0 3 9\nIpExt: X\nIpExt: 1\n";

    fn recorded() -> (tempfile::TempDir, NetworkCollector) {
        let root = tempfile::tempdir().expect("writable");
        let at = |path: &str| root.path().join(path);
        for directory in ["net", "netfilter", "class/eth0/device", "class/veth9", "class/lo"] {
            fs::create_dir_all(at(directory)).expect("made");
        }
        for (file, content) in [
            ("net/dev", DEV),
            ("net/snmp", SNMP),
            ("net/netstat", NETSTAT),
            ("netfilter/nf_conntrack_count", "12\n"),
            ("netfilter/nf_conntrack_max", "262144\n"),
            ("class/eth0/speed", "10000\n"),
            ("class/veth9/speed", "-1\n"),
        ] {
            fs::write(at(file), content).expect("written");
        }
        let second = Duration::from_secs(1);
        let collector = NetworkCollector::over(&at("net"), &at("netfilter"), &at("class"), second);
        (root, collector)
    }

    #[test]
    fn hardware_and_loopback_have_series_and_the_rest_is_counted() {
        let (_root, mut collector) = recorded();
        let values = values(&mut collector);
        assert_eq!(values["etcdmon_node_network_bytes_total eth0 received"], 3_078_752_395.0);
        assert_eq!(values["etcdmon_node_network_drops_total eth0 sent"], 4.0);
        assert_eq!(values["etcdmon_node_network_packets_total lo sent"], 10.0);
        assert_eq!(values["etcdmon_node_network_interfaces_left_out"], 1.0);
        assert_eq!(values["etcdmon_node_network_speed_bytes_per_second eth0"], 1.25e9);
        assert_eq!(values["etcdmon_node_tcp_retransmitted_segments_total"], 42.0);
        assert_eq!(values["etcdmon_node_tcp_listen_overflows_total"], 3.0);
        assert_eq!(values["etcdmon_node_tcp_established"], 7.0);
        assert_eq!(values["etcdmon_node_conntrack_limit"], 262_144.0);
        assert!(!values.keys().any(|name| name.contains("veth9")), "{values:?}");
    }

    #[test]
    fn hostile_files_never_panic_and_a_page_without_interfaces_is_an_error() {
        let huge = "x:".repeat(50_000);
        let hostile = ["", ":", "Tcp:\nTcp:", "Tcp: RetransSegs\nTcp: -9", "Tcp\nTcp", "\u{0}\n\u{0}", &huge];
        for content in hostile {
            let (root, mut collector) = recorded();
            for file in ["net/snmp", "net/netstat", "netfilter/nf_conntrack_count", "class/eth0/speed"] {
                fs::write(root.path().join(file), content).expect("written");
            }
            assert!(!values(&mut collector).contains_key("etcdmon_node_tcp_retransmitted_segments_total"));
            fs::write(root.path().join("net/dev"), content).expect("written");
            assert!(matches!(collector.sample(), Err(CollectError::Form { .. })), "{content:?}");
        }
        let (root, mut collector) = recorded();
        let many: String = (0..200).map(|n| format!("e{n}: 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1\n")).collect();
        fs::write(root.path().join("net/dev"), many).expect("written");
        let left_out = 200 - INTERFACES_LIMIT;
        assert_eq!(values(&mut collector)["etcdmon_node_network_interfaces_left_out"], left_out as f64);
    }

    #[test]
    fn this_node_has_a_loopback_and_sends_segments() {
        let values = values(&mut NetworkCollector::new(Duration::from_secs(1)));
        assert!(values.contains_key("etcdmon_node_network_bytes_total lo received"), "{values:#?}");
        assert!(values.contains_key("etcdmon_node_tcp_retransmitted_segments_total"), "{values:#?}");
    }
}
