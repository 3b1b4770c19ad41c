//! What an etcd gets of its node, from the kernel to the live stream. S3, S6.

use std::path::Path;
use std::time::Duration;

use etcdmon_proto::v1;

use crate::support::agent::Agent;
use crate::support::aggregator::{Aggregator, Running};
use crate::support::etcd::{Etcd, VERSIONS};
use crate::support::{is_root, wait_for};

const LIMIT: Duration = Duration::from_secs(40);

fn vitals(server: &Running) -> Option<v1::LiveVitals> {
    server.aggregator.live()?.members.first()?.vitals.clone()
}

fn start(directory: &Path) -> Option<(Etcd, Running, Agent)> {
    let etcd = Etcd::start(VERSIONS[2], directory)?;
    let server = Aggregator::start();
    let agent = Agent::start(directory, server.address, &[]);
    wait_for("agent watches etcd", LIMIT, || agent.log().contains("watching syncs").then_some(()));
    Some((etcd, server, agent))
}

fn send(pid: u32, signal: i32) {
    // SAFETY: numbers; the process is a child of ours that was not waited for.
    assert_eq!(unsafe { libc::kill(pid.cast_signed(), signal) }, 0);
}

#[test]
fn a_short_stop_of_etcd_is_measured_and_its_sender_named() {
    if !is_root("a_short_stop_of_etcd_is_measured_and_its_sender_named") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let Some((etcd, server, agent)) = start(directory.path()) else { return };
    let first = wait_for("vitals", LIMIT, || {
        vitals(&server).filter(|vitals| vitals.on_cpu_ns_total.is_some() && vitals.disk_size_bytes.is_some())
    });
    println!("{first:?}");
    assert_eq!(first.stopped_ns_total, Some(0));
    assert!(first.run_delay_ns_total.is_some() && first.node_idle_ns_total.is_some() && first.node_cpus > 0);
    assert!(first.disk_free_bytes.is_some() && first.disk_free_bytes <= first.disk_size_bytes);
    wait_for("disks are known", LIMIT, || vitals(&server).filter(|vitals| vitals.io_errors_total == Some(0)));
    assert_eq!((first.sync_errors_total, first.last_errno), (Some(0), 0));
    let begin = std::time::Instant::now();
    send(etcd.pid(), libc::SIGSTOP);
    std::thread::sleep(Duration::from_millis(300));
    send(etcd.pid(), libc::SIGCONT);
    let at_most = begin.elapsed();
    let stopped = wait_for("the stop is told", LIMIT, || {
        vitals(&server).filter(|vitals| vitals.stopped_ns_total > Some(0) && vitals.signals.len() >= 2)
    });
    let lasted = Duration::from_nanos(stopped.stopped_ns_total.unwrap());
    assert!(lasted >= Duration::from_millis(300) && lasted <= at_most, "{lasted:?} of {at_most:?}");
    let told: Vec<_> = stopped.signals.iter().map(|one| (one.signal, one.sender_process_id)).collect();
    assert_eq!(told, [(19, std::process::id()), (18, std::process::id())]);
    let sender = &stopped.signals[0];
    println!("{sender:?}");
    assert!(!sender.sender_comm.is_empty() && !sender.sender_process.is_empty());
    etcd.put(5);
    let later = wait_for("it runs on", LIMIT, || {
        vitals(&server).filter(|vitals| vitals.on_cpu_ns_total > stopped.on_cpu_ns_total)
    });
    assert_eq!(later.stopped_ns_total, stopped.stopped_ns_total);
    send(etcd.pid(), libc::SIGKILL);
    let last = wait_for("its end is told", LIMIT, || {
        let member = server.aggregator.live()?.members.first()?.clone();
        member.vitals.filter(|vitals| !member.running && vitals.signals.len() >= 3)
    });
    assert_eq!(last.signals[2].signal, 9);
    assert!(agent.stop().success());
}
