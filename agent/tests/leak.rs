//! Nothing of the probes outlives them: alone in its process, so that every kernel object here is its own.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    time::{Duration, Instant},
};

use etcdmon_agent::ebpf::{ProbeConfig, ProbeError, Probes};

/// Freed after a grace period.
const DEADLINE: Duration = Duration::from_secs(10);

/// Programs, maps and links that this process has open, as (what, id).
fn objects() -> BTreeSet<(String, u32)> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir("/proc/self/fdinfo").expect("proc").flatten() {
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        for line in text.lines() {
            if let Some((what @ ("prog_id" | "map_id" | "link_id"), id)) = line.split_once(':')
                && let Ok(id) = id.trim().parse()
            {
                found.insert((what.to_owned(), id));
            }
        }
    }
    found
}

/// Whether an object of this kind with this id is in the kernel.
fn is_there(what: &str, id: u32) -> bool {
    // BPF_{PROG,MAP,LINK}_GET_FD_BY_ID of bpf(2).
    let command = match what {
        "prog_id" => 13,
        "map_id" => 14,
        _ => 30,
    };
    let request = [id, 0, 0, 0];
    // SAFETY: the kernel reads as many bytes as it is told, which are alive during the call.
    let descriptor =
        unsafe { libc::syscall(libc::SYS_bpf, command, request.as_ptr(), size_of_val(&request)) };
    if descriptor >= 0 {
        // SAFETY: just made for us.
        unsafe { libc::close(descriptor as i32) };
    }
    descriptor >= 0
}

#[test]
fn dropped_probes_leave_no_program_map_or_link_in_the_kernel() {
    let offsets_program = Some(PathBuf::from(env!("CARGO_BIN_EXE_etcd-monitor-agent")));
    let probes = match Probes::load(&ProbeConfig { offsets_program, ..ProbeConfig::default() }) {
        Ok(probes) => probes,
        Err(
            error @ (ProbeError::ObjectMissing | ProbeError::Privilege { .. } | ProbeError::PidNamespace),
        ) => return eprintln!("skipped: {error}: {}", error.remedy()),
        Err(error) => panic!("load: {error:?}"),
    };
    // Any disk and any process will do.
    probes.watch_devices(&[7 << 20]).expect("a disk");
    probes.add_target(std::process::id(), &[]).expect("a slot is free");
    probes.watch_journals(&[7 << 20]).expect("a filesystem");
    for event in ["block_rq_issue", "signal_generate", "jbd2_handle_stats"] {
        assert!(probes.facts().attached.contains(&event), "{event}");
    }
    let ours = objects();
    for what in ["prog_id", "map_id", "link_id"] {
        assert!(ours.iter().any(|(of, id)| of == what && is_there(what, *id)), "{what}: {ours:?}");
    }
    // What comes and goes on demand leaves nothing either, however often.
    for _ in 0..50 {
        probes.watch_journals(&[]).expect("detached");
        probes.watch_journals(&[7 << 20]).expect("attached");
    }
    assert_eq!(objects().len(), ours.len());
    let ours: BTreeSet<_> = ours.union(&objects()).cloned().collect();
    drop(probes);
    assert_eq!(objects(), BTreeSet::new());
    let begin = Instant::now();
    for (what, id) in ours {
        while is_there(&what, id) {
            assert!(begin.elapsed() < DEADLINE, "{what} {id} is still there");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
