use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command};

use super::*;
use crate::collect::sheet::values_of;

const DEVICES: [Number; 2] = [Number { major: 259, minor: 0 }, Number { major: 8, minor: 16 }];

/// Files as recorded on a node with cgroup v2, a pod with limits and a container in it.
const POD: [(&str, &str); 8] = [
    ("cpu.max", "200000 100000\n"),
    (
        "cpu.stat",
        "usage_usec 90\nuser_usec 60\nsystem_usec 30\nnr_periods 10\nnr_throttled 4\nthrottled_usec 2500000\n",
    ),
    ("memory.max", "4294967296\n"),
    ("memory.high", "max\n"),
    ("memory.current", "3000000000\n"),
    ("pids.max", "512\n"),
    ("io.max", "259:0 rbps=max wbps=104857600 riops=max wiops=1000\n"),
    ("cgroup.procs", ""),
];
const CONTAINER: [(&str, &str); 15] = [
    ("cpu.max", "max 100000\n"),
    ("cpu.weight", "79\n"),
    (
        "cpu.stat",
        "usage_usec 5000000\nuser_usec 4\nsystem_usec 1\nnr_periods 0\nnr_throttled 0\nthrottled_usec 0\n",
    ),
    ("cpuset.cpus.effective", "0-3,8,10-11\n"),
    ("memory.max", "8589934592\n"),
    ("memory.current", "2000000000\n"),
    ("memory.events", "low 0\nhigh 7\nmax 12\noom 2\noom_kill 1\noom_group_kill 0\n"),
    ("memory.stat", "anon 1\nfile 900\ninactive_file 800\nactive_file 100\n"),
    ("pids.max", "max\n"),
    ("pids.current", "23\n"),
    ("io.max", "259:0 rbps=max wbps=52428800 riops=max wiops=max\n8:16 rbps=1 wbps=2 riops=3 wiops=4\n"),
    (
        "io.stat",
        "259:0 rbytes=1024 wbytes=4096 rios=1 wios=2 dbytes=0 dios=0\n7:0 \n253:1 rbytes=9 wbytes=9\n",
    ),
    ("io.weight", "default 100\n259:0 50\n"),
    (
        "cpu.pressure",
        "some avg10=0.00 avg60=0.00 avg300=0.00 total=1500000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=500000\n",
    ),
    ("cgroup.procs", ""),
];

struct Recorded {
    root: tempfile::TempDir,
    collector: CgroupCollector,
}

impl Recorded {
    fn group(&self, path: &str) -> PathBuf {
        self.root.path().join("cg").join(path)
    }

    fn values(&mut self) -> BTreeMap<String, f64> {
        self.collector.sample().expect("read");
        values_of(&self.collector.sheet.take(None, Reading { mono_ns: 1, wall_ns: 1 }))
    }
}

/// Process 7 in `kube/pod/etcd` of a recorded tree.
fn recorded() -> Recorded {
    let root = tempfile::tempdir().expect("writable");
    let write = |path: PathBuf, content: &str| {
        fs::create_dir_all(path.parent().expect("below the root")).expect("made");
        fs::write(path, content).expect("written");
    };
    let at = root.path();
    for (file, content) in POD {
        write(at.join("cg/kube/pod").join(file), content);
    }
    for (file, content) in CONTAINER {
        write(at.join("cg/kube/pod/etcd").join(file), content);
    }
    let own = std::process::id();
    let mountinfo = format!("25 1 0:22 / {}/cg rw - cgroup2 cgroup2 rw\n", at.display());
    write(at.join(format!("proc/{own}/mountinfo")), &mountinfo);
    write(at.join("proc/7/cgroup"), "0::/kube/pod/etcd\n");
    let id = ProcessId { boot_id: [0; 16], pid: 7, start_ticks: 0 };
    let none = [PathBuf::from("/none"), PathBuf::from("/none")];
    let proc = ProcFs::new(at.join("proc"));
    let mut collector = CgroupCollector::over(&proc, id, none, Duration::from_secs(1));
    collector.devices =
        DEVICES.iter().zip(["nvme0n1", "sdb"]).map(|(n, name)| (*n, name.to_owned())).collect();
    Recorded { root, collector }
}

#[test]
fn on_version_2_the_smallest_limit_on_the_way_up_is_the_limit() {
    let values = recorded().values();
    let value = |name: &str| *values.get(name).unwrap_or_else(|| panic!("no {name} in {values:#?}"));
    assert_eq!(value("etcdmon_cgroup_info /kube/pod/etcd v2"), 1.0);
    assert_eq!(value("etcdmon_cgroup_cpu_limit_cores"), 2.0, "the pod's");
    assert_eq!(value("etcdmon_cgroup_cpu_weight"), 79.0);
    assert_eq!(value("etcdmon_cgroup_cpu_seconds_total"), 5.0);
    assert_eq!(value("etcdmon_cgroup_cpu_throttled_seconds_total /kube/pod"), 2.5);
    assert_eq!(value("etcdmon_cgroup_cpu_throttled_periods_total /kube/pod/etcd"), 0.0);
    assert_eq!(value("etcdmon_cgroup_cpuset_cpus"), 7.0);
    assert_eq!(value("etcdmon_cgroup_memory_limit_bytes"), 4_294_967_296.0);
    assert_eq!(value("etcdmon_cgroup_memory_used_bytes /kube/pod"), 3e9);
    assert_eq!(value("etcdmon_cgroup_memory_used_bytes /kube/pod/etcd"), 2e9);
    assert_eq!(value("etcdmon_cgroup_memory_events_total oom_kill"), 1.0);
    assert_eq!(value("etcdmon_cgroup_memory_inactive_file_bytes"), 800.0);
    assert_eq!((value("etcdmon_cgroup_pids_limit"), value("etcdmon_cgroup_pids")), (512.0, 23.0));
    assert_eq!(value("etcdmon_cgroup_io_limit_bytes_per_second nvme0n1 write"), 52_428_800.0);
    assert_eq!(value("etcdmon_cgroup_io_limit_operations_per_second nvme0n1 write"), 1000.0);
    assert_eq!(value("etcdmon_cgroup_io_limit_operations_per_second sdb read"), 3.0);
    assert_eq!(value("etcdmon_cgroup_io_bytes_total nvme0n1 write"), 4096.0);
    assert_eq!(value("etcdmon_cgroup_pressure_seconds_total cpu some"), 1.5);
    let absent =
        ["etcdmon_cgroup_memory_high_bytes", "etcdmon_cgroup_swap_limit_bytes", "etcdmon_cgroup_cpu_shares"];
    for name in absent {
        assert!(!values.contains_key(name), "{name} is no limit, not zero");
    }
    assert!(
        !values.keys().any(|name| name.starts_with("etcdmon_cgroup_pressure_seconds_total io")),
        "no file"
    );
}

#[test]
fn a_process_that_is_moved_and_a_limit_that_is_set_are_followed() {
    let mut recorded = recorded();
    recorded.values();
    fs::write(recorded.group("kube/cgroup.procs"), "").expect("written");
    fs::write(recorded.group("kube/cpu.max"), "50000 100000").expect("written");
    fs::write(recorded.group("kube/cpu.stat"), "nr_periods 9\nnr_throttled 3\nthrottled_usec 1000000\n")
        .expect("written");
    let mut values = BTreeMap::new();
    for _ in 0..LIMITS_EVERY {
        values.extend(recorded.values());
    }
    assert_eq!(values["etcdmon_cgroup_cpu_limit_cores"], 0.5);
    assert_eq!(values["etcdmon_cgroup_cpu_throttled_seconds_total /kube"], 1.0);

    fs::write(recorded.root.path().join("proc/7/cgroup"), "0::/kube/pod\n").expect("written");
    for _ in 0..LIMITS_EVERY {
        values.extend(recorded.values());
    }
    assert_eq!(values["etcdmon_cgroup_info /kube/pod v2"], 1.0);
    assert_eq!(values["etcdmon_cgroup_info /kube/pod/etcd v2"], 0.0);
}

#[test]
fn hostile_files_cost_only_what_they_hold() {
    let huge = "9".repeat(1 << 20);
    let hostile = ["", "\u{0}", "max", "nan", "inf", "-", "1 2 3 4\n5", "259:0 =\n259:0 rbps\n:: a=b", &huge];
    for content in hostile {
        let mut recorded = recorded();
        for (file, _) in CONTAINER.iter().chain(&POD).filter(|(file, _)| *file != "cgroup.procs") {
            fs::write(recorded.group("kube/pod/etcd").join(file), content).expect("written");
            fs::write(recorded.group("kube/pod").join(file), content).expect("written");
        }
        let values = recorded.values();
        assert!(values.values().all(|value| value.is_finite()), "{content:?}: {values:?}");
        // The groups vanish between two rounds.
        fs::remove_dir_all(recorded.group("kube")).expect("removed");
        for _ in 0..2 * LIMITS_EVERY {
            recorded.values();
        }
    }
    for list in ["", "a", "3-1", "1-", "-1", "0-99999999999", "1,,2"] {
        assert_eq!(count_cpus(list), None, "{list:?}");
    }
    assert_eq!(count_cpus("0-4294967295\n"), Some(4_294_967_296.0));
}

#[test]
fn version_1_files_are_read_as_they_are_written() {
    let root = tempfile::tempdir().expect("writable");
    let write = |file: &str, content: &str| fs::write(root.path().join(file), content).expect("written");
    write("cpu.cfs_quota_us", "-1\n");
    write("cpu.cfs_period_us", "100000\n");
    assert_eq!(v1::cpu_limit(root.path()), None);
    write("cpu.cfs_quota_us", "150000\n");
    assert_eq!(v1::cpu_limit(root.path()).map(CpuLimit::cores), Some(1.5));
    write("cpu.cfs_period_us", "0\n");
    assert_eq!(v1::cpu_limit(root.path()), None, "never divided by zero");
    write("memory.limit_in_bytes", "9223372036854771712\n");
    assert_eq!(v1::memory_limits(root.path()), MemoryLimits::default());
    write("memory.limit_in_bytes", "1073741824\n");
    write("memory.memsw.limit_in_bytes", "2147483648\n");
    let limits = MemoryLimits { max: Some(1_073_741_824.0), high: None, swap: Some(1_073_741_824.0) };
    assert_eq!(v1::memory_limits(root.path()), limits);
    let events = v1::memory_events(Some("5\n"), Some("oom_kill_disable 0\nunder_oom 1\noom_kill 3\n"));
    assert_eq!((events.max, events.oom_kill, events.under_oom), (Some(5.0), Some(3.0), Some(1.0)));
    write("blkio.throttle.write_iops_device", "8:16 200\n259:0 7\n1:1 1\n");
    let limits = v1::io_limits(root.path(), &DEVICES);
    assert_eq!(limits[1], (DEVICES[1], IoLimit([None, None, None, Some(200.0)])));
    let bytes = "259:0 Read 10\n259:0 Write 20\n259:0 Sync 20\n259:0 Total 30\n9:9 Read 1\nTotal 30\n";
    let usage = v1::io_usage(Some(bytes), Some("259:0 Write 2\n"), &DEVICES);
    assert_eq!(usage, [(DEVICES[0], IoUsage([Some(10.0), Some(20.0), None, Some(2.0)]))]);
    let stat = "nr_periods 3\nnr_throttled 2\nthrottled_time 1500000000\nnr_bursts 0\n";
    assert_eq!(v1::throttling(stat), Some(Throttling { periods: 3.0, throttled: 2.0, seconds: 1.5 }));
    assert_eq!(v1::throttling("nr_periods 3\nnr_thro"), None, "cut off");
}

/// A group of this machine's own version 1 hierarchies with a busy process in it; gone when dropped.
struct Real {
    groups: Vec<PathBuf>,
    process: Child,
}

impl Real {
    fn new(name: &str) -> Option<Self> {
        let roots = ["cpu", "memory", "cpuacct", "pids"]
            .map(|controller| Path::new("/sys/fs/cgroup").join(controller));
        if roots.iter().any(|root| !root.join("tasks").exists()) {
            println!("skipped: no cgroup version 1 with cpu, cpuacct, memory and pids on this machine");
            return None;
        }
        let groups: Vec<PathBuf> = roots.iter().map(|root| root.join(name)).collect();
        if let Err(error) = groups.iter().try_for_each(fs::create_dir) {
            println!("skipped: no cgroup can be made: {error}");
            return None;
        }
        let process = Command::new("sh").args(["-c", "while :; do :; done"]).spawn().expect("sh");
        for group in &groups {
            fs::write(group.join("cgroup.procs"), process.id().to_string()).expect("joined");
        }
        Some(Self { groups, process })
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        let _ended = self.process.kill().and_then(|()| self.process.wait());
        for group in &self.groups {
            for _attempt in 0..50 {
                if fs::remove_dir(group).is_ok() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

#[test]
fn a_real_process_that_runs_out_of_quota_is_seen_to_be_throttled() {
    let Some(real) = Real::new(&format!("etcdmon-test-{}", std::process::id())) else { return };
    fs::write(real.groups[0].join("cpu.cfs_quota_us"), "10000").expect("a tenth of a core");
    fs::write(real.groups[1].join("memory.limit_in_bytes"), "64M").expect("limited");
    fs::write(real.groups[3].join("pids.max"), "33").expect("limited");
    let id = ProcessId { boot_id: [0; 16], pid: real.process.id(), start_ticks: 0 };
    let paths = [PathBuf::from("/"), PathBuf::from("/")];
    let mut collector = CgroupCollector::over(&ProcFs::new("/proc"), id, paths, Duration::from_secs(1));
    let mut values = || {
        collector.sample().expect("read");
        values_of(&collector.sheet.take(None, Reading { mono_ns: 1, wall_ns: 1 }))
    };
    let first = values();
    assert_eq!(first["etcdmon_cgroup_cpu_limit_cores"], 0.1);
    assert_eq!(first["etcdmon_cgroup_memory_limit_bytes"], f64::from(64 << 20));
    assert_eq!(first["etcdmon_cgroup_pids_limit"], 33.0);
    assert!(
        first.keys().any(|name| name.starts_with("etcdmon_cgroup_info") && name.ends_with("hybrid")),
        "{first:?}"
    );
    let throttled =
        format!("etcdmon_cgroup_cpu_throttled_seconds_total /etcdmon-test-{}", std::process::id());
    let mut seen = first.clone();
    let begin = std::time::Instant::now();
    while seen[&throttled] < first[&throttled] + 0.3 && begin.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(100));
        seen.extend(values());
    }
    assert!(seen[&throttled] >= first[&throttled] + 0.3, "{seen:#?}");
    assert!(
        seen["etcdmon_cgroup_cpu_seconds_total"] > first["etcdmon_cgroup_cpu_seconds_total"],
        "{seen:#?}"
    );
}
