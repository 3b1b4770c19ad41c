//! Anybody may start a process that is called etcd, with any path for its files: the agent, which may read everything, neither
//! hangs nor fills its memory. S11.

use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::support::agent::Agent;
use crate::support::aggregator::Aggregator;
use crate::support::standin::Standin;
use crate::support::wait_for;

const LIMIT: Duration = Duration::from_secs(30);

fn fifo(path: &Path) -> String {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    path.display().to_string()
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// What the agent's log says that it does not see of a process.
fn notes(agent: &Agent, pid: u32) -> String {
    wait_for("it is found", LIMIT, || {
        let log = agent.log();
        let marks = ["etcd is not seen whole".to_owned(), format!("pid={pid} ")];
        log.lines().find(|line| marks.iter().all(|mark| line.contains(mark))).map(str::to_owned)
    })
}

#[test]
fn a_process_called_etcd_names_fifos_devices_and_endless_files_and_the_agent_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let fifo = fifo(&at("fifo"));
    let _socket = UnixListener::bind(at("socket")).unwrap();
    std::fs::File::create(at("sparse")).and_then(|file| file.set_len(1 << 30)).unwrap();
    symlink(at("loop"), at("loop")).unwrap();
    symlink("/dev/zero", at("zero")).unwrap();
    std::fs::write(at("laughs"), laughs()).unwrap();
    std::fs::write(at("secret"), "password: hunter2\nunclosed: [hunter2\n").unwrap();
    std::fs::write(at("deep"), "[".repeat(100_000)).unwrap();
    let server = Aggregator::start();
    let agent = Agent::start(directory.path(), server.address, &[]);
    let before = wait_for("live", LIMIT, || server.aggregator.live()).number;
    let mut standins = Vec::new();
    let places = [
        ("fifo", "is a FIFO"),
        ("socket", "is a socket"),
        ("zero", "is a device"),
        (".", "is a directory"),
        ("sparse", "has more than"),
        ("loop", "symbolic links"),
        ("laughs", "budget breached"),
        ("secret", "line 2"),
        ("deep", "recursion limit"),
    ];
    let data_dir_of = |name: &str| at(&format!("data-{name}"));
    for (name, _) in places {
        let file = format!("--config-file={}", at(name).display());
        standins.push(Standin::start(directory.path(), &[&file, &data(&data_dir_of(name))]));
    }
    // Whatever else is opened: certificates, log, segments.
    let data_dir = at("data-all");
    std::fs::create_dir_all(data_dir.join("member/wal")).unwrap();
    std::fs::hard_link(&fifo, data_dir.join("member/wal/0000000000000000-0000000000000000.wal")).unwrap();
    let files = ["--cert-file=", "--key-file=", "--trusted-ca-file=", "--log-outputs="];
    let mut flags: Vec<String> = files.iter().map(|flag| format!("{flag}{fifo}")).collect();
    flags.extend([data(&data_dir), "--listen-client-urls=https://127.0.0.1:9".to_owned()]);
    standins.push(Standin::start(directory.path(), &flags.iter().map(String::as_str).collect::<Vec<_>>()));
    for ((name, told), standin) in places.iter().zip(&standins) {
        let notes = notes(&agent, standin.0.id());
        assert!(notes.contains(told) && notes.contains("configuration file"), "{name}: {notes}");
        assert!(!notes.contains("hunter2"), "the content is nobody's business: {notes}");
    }
    let told = wait_for("why it is not asked is told", LIMIT, || {
        let live = server.aggregator.live()?;
        let of = |member: &&etcdmon_proto::v1::LiveMember| {
            member.member.as_ref().is_some_and(|member| member.data_dir == data_dir.display().to_string())
        };
        let error = live.members.iter().find(of)?.scrape_error.clone();
        error.contains("FIFO").then_some(error)
    });
    assert!(told.contains(&fifo), "{told}");
    let all = standins.len() as f64;
    wait_for("all are there", LIMIT, || (agent.metric("etcdmon_agent_members") == all).then_some(()));
    // Their ends are looked into as well: the log, the certificates, the segments.
    drop(standins);
    wait_for("all are gone", LIMIT, || (agent.metric("etcdmon_agent_members") == 0.0).then_some(()));
    wait_for("the live stream goes on", LIMIT, || {
        server.aggregator.live().filter(|live| live.number > before + 2)
    });
    let resident = resident_kib(agent.child.id());
    assert!(resident < 300 << 10, "{resident} KiB");
    assert!(!agent.log().contains("panicked"));
    assert!(agent.stop().success());
}

fn data(directory: &Path) -> String {
    format!("--data-dir={}", directory.display())
}

/// A few hundred bytes of YAML that stand for a thousand million strings.
fn laughs() -> String {
    let mut text = "a: &a [\"laughs\",\"laughs\",\"laughs\"]\n".to_owned();
    for (name, before) in ('b'..='t').zip('a'..) {
        text += &format!("{name}: &{name} [*{before},*{before},*{before}]\n");
    }
    text
}
