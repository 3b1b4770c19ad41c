//! The spool of a real agent on a real filesystem that fills up, with a kill -9 and a damaged segment. S10, S13, T1.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use etcdmon_proto::v1::LedgerKind;

use crate::support::agent::Agent;
use crate::support::aggregator::Aggregator;
use crate::support::etcd::Etcd;
use crate::support::{is_root, wait_for};

const LIMIT: Duration = Duration::from_secs(30);

/// An ext4 of 64 MiB, taken down when dropped.
struct Small {
    device: String,
    mounted: PathBuf,
}

fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let done =
        Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    let text = String::from_utf8_lossy(if done.status.success() { &done.stdout } else { &done.stderr });
    let text = text.trim().to_owned();
    if done.status.success() { Ok(text) } else { Err(format!("{program}: {text}")) }
}

impl Small {
    fn mount(image: &Path, mounted: &Path) -> Result<Self, String> {
        File::create(image).and_then(|file| file.set_len(64 << 20)).map_err(|error| error.to_string())?;
        std::fs::create_dir(mounted).map_err(|error| error.to_string())?;
        let image = image.to_str().expect("text");
        run("mkfs.ext4", &["-q", "-F", image])?;
        let device = run("losetup", &["--find", "--show", image])?;
        let small = Self { device, mounted: mounted.to_owned() };
        run("mount", &[&small.device, mounted.to_str().expect("text")])?;
        Ok(small)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = run("umount", &[self.mounted.to_str().expect("text")]);
        let _ = run("losetup", &["--detach", &self.device]);
    }
}

/// Offsets of all records in a slot, in use or not.
fn records(bytes: &[u8]) -> Vec<usize> {
    bytes.windows(4).enumerate().filter(|(_, window)| *window == b"EREC").map(|(at, _)| at).collect()
}

#[test]
fn a_full_disk_a_kill_and_a_flipped_bit_cost_what_is_counted() {
    if !is_root("a_full_disk_a_kill_and_a_flipped_bit_cost_what_is_counted") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("agent");
    let small = match Small::mount(&directory.path().join("image"), &state) {
        Ok(small) => small,
        Err(reason) => {
            eprintln!("SKIPPED a_full_disk_a_kill_and_a_flipped_bit_cost_what_is_counted: {reason}");
            return;
        }
    };
    let Some(etcd) = Etcd::start("3.6.16", directory.path()) else { return };
    let key = directory.path().join("spool.key");
    std::fs::write(&key, [9; 32]).unwrap();
    let settings = ["--spool-max-bytes", "32MiB", "--spool-key-file", key.to_str().expect("text")];
    let filler = File::create(state.join("filler")).unwrap();
    // SAFETY: the descriptor is open for the duration of the call, which touches no memory of ours.
    let filled = unsafe { libc::fallocate(filler.as_raw_fd(), 0, 0, 50 << 20) };
    assert_eq!(filled, 0, "{}", std::io::Error::last_os_error());

    let agent = Agent::start(directory.path(), "127.0.0.1:1".parse().unwrap(), &settings);
    etcd.put(20);
    wait_for("a write fails", LIMIT, || {
        (agent.metric("etcdmon_agent_spool_write_failures") > 0.0).then_some(())
    });
    assert!(agent.metric("etcdmon_agent_spool_ram_bytes") > 0.0, "batches wait in memory");
    assert_eq!(agent.metric("etcdmon_agent_spool_allocated_bytes"), 0.0);
    filler.set_len(0).unwrap();
    drop(filler);
    wait_for("batches go to disk", LIMIT, || {
        (agent.metric("etcdmon_agent_spool_disk_bytes") > 0.0).then_some(())
    });
    etcd.put(20);
    std::thread::sleep(Duration::from_secs(8));
    agent.kill();

    let slot = state.join("spool/0000.slot");
    let mut bytes = std::fs::read(&slot).unwrap();
    assert_eq!(bytes.len(), 4 << 20, "preallocated");
    assert!(!bytes.windows(5).any(|window| window == b"etcd_"), "sealed");
    let records = records(&bytes);
    assert!(records.len() >= 3, "{records:?}");
    bytes[records[1] + 112 + 20] ^= 4;
    std::fs::write(&slot, bytes).unwrap();

    let server = Aggregator::start();
    let agent = Agent::start(directory.path(), server.address, &settings);
    let from_before = || {
        let seen = server.aggregator.seen.lock().unwrap();
        seen.arrivals.iter().filter(|(_, maybe_sent_before)| *maybe_sent_before).count()
    };
    wait_for("what is whole arrives", LIMIT, || (from_before() >= records.len() - 1).then_some(()));
    assert_eq!(from_before(), records.len() - 1, "all but the damaged one, and each once");
    wait_for("the damaged one is accounted for", LIMIT, || {
        let rows = server.aggregator.ledger();
        rows.iter().any(|row| row.0 == LedgerKind::Dropped && row.2.ends_with("spool_corrupt")).then_some(())
    });
    assert!(!agent.log().contains(&"09".repeat(8)), "no key in the log");
    assert!(agent.stop().success());
    // Before the directory that it is mounted in.
    drop(small);
}
