//! Who is behind what happens to a process: senders of its signals, and who fills the journal of its filesystem.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use etcdmon_agent::ebpf::{MetadataUsage, Position, Probes, Signal};

use crate::{
    NEVER, config,
    disk::{Disk, Kind},
    order, set_up, watch,
    writer::Writer,
};

const DEADLINE: Duration = Duration::from_secs(20);

fn send(pid: u32, signal: i32) {
    // SAFETY: numbers; the process is a child of ours that was not waited for.
    assert_eq!(unsafe { libc::kill(pid.cast_signed(), signal) }, 0);
}

fn signals(probes: &Probes, position: &mut Position) -> Vec<Signal> {
    let mut found = Vec::new();
    *position = probes.signals(*position, &mut found);
    found
}

fn state(pid: u32) -> char {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    text[text.rfind(')').expect("a name") + 2..].chars().next().expect("a state")
}

#[test]
fn signals_that_stop_continue_and_end_a_process_name_their_sender() {
    let Some((probes, disk)) = set_up(Kind::Ext4, &config(0, NEVER)) else { return };
    let writer = Writer::start(&disk.directory());
    let other = Writer::start(&disk.directory());
    watch(&probes, &disk, &writer);
    assert!(probes.sees_signals());
    let mut position = Position::default();
    assert_eq!(signals(&probes, &mut position), []);
    for signal in [libc::SIGSTOP, libc::SIGCONT] {
        send(other.pid(), signal);
    }
    send(writer.pid(), libc::SIGURG);
    assert_eq!(signals(&probes, &mut position), [], "of another process, or without effect");
    let begin = Instant::now();
    send(writer.pid(), libc::SIGSTOP);
    while state(writer.pid()) != 'T' {
        assert!(begin.elapsed() < DEADLINE, "not stopped");
    }
    std::thread::sleep(Duration::from_millis(30));
    send(writer.pid(), libc::SIGCONT);
    let stopped_at_most = begin.elapsed();
    let found = signals(&probes, &mut position);
    let told: Vec<_> = found.iter().map(|signal| signal.signal).collect();
    assert_eq!(told, [libc::SIGSTOP, libc::SIGCONT]);
    let own = std::fs::read_to_string("/proc/thread-self/comm").expect("own");
    for signal in &found {
        assert_eq!((signal.process_id, signal.sender_process_id), (writer.pid(), std::process::id()));
        assert!(signal.to_process, "{signal:?}");
        let end = signal.sender_comm.iter().position(|byte| *byte == 0).unwrap_or(16);
        assert_eq!(&signal.sender_comm[..end], own.trim_end().as_bytes());
    }
    let stopped = Duration::from_nanos(found[1].at_ns - found[0].at_ns);
    assert!(stopped >= Duration::from_millis(30) && stopped <= stopped_at_most, "{stopped:?}");
    // It ignores nothing, so this is its end.
    send(writer.pid(), libc::SIGKILL);
    assert_eq!(
        signals(&probes, &mut position).iter().map(|one| one.signal).collect::<Vec<_>>(),
        [libc::SIGKILL]
    );
    assert_eq!(crate::lost(&probes), []);
}

#[test]
fn a_debugger_that_attaches_is_the_sender_of_its_stop() {
    let Some((probes, disk)) = set_up(Kind::Ext4, &config(0, NEVER)) else { return };
    let mut writer = Writer::start(&disk.directory());
    watch(&probes, &disk, &writer);
    let pid = writer.pid().cast_signed();
    let none = std::ptr::null_mut::<libc::c_void>();
    let mut status = 0;
    // SAFETY: a child of ours, which this thread attaches to, waits for and lets go.
    unsafe {
        assert_eq!(libc::ptrace(libc::PTRACE_ATTACH, pid, none, none), 0);
        assert_eq!(libc::waitpid(pid, &raw mut status, 0), pid);
        assert_eq!(libc::ptrace(libc::PTRACE_DETACH, pid, none, none), 0);
    }
    let found = signals(&probes, &mut Position::default());
    let [stop] = &found[..] else { panic!("{found:?}") };
    assert_eq!((stop.signal, stop.sender_process_id), (libc::SIGSTOP, std::process::id()));
    // It goes on without SIGCONT.
    writer.carry_out(order("write", "member/file", 1, 10));
    assert!(!['T', 't'].contains(&state(writer.pid())));
}

#[test]
fn the_hook_of_signals_goes_with_the_last_process() {
    let Some((probes, disk)) = set_up(Kind::Ext4, &config(0, NEVER)) else { return };
    assert!(!probes.sees_signals());
    let (one, other) = (Writer::start(&disk.directory()), Writer::start(&disk.directory()));
    watch(&probes, &disk, &one);
    watch(&probes, &disk, &other);
    probes.remove_target(one.pid());
    assert!(probes.sees_signals());
    probes.remove_target(other.pid());
    assert!(!probes.sees_signals());
}

/// Makes and removes directories: nothing but metadata.
fn churn(directory: &Path, times: usize) {
    for number in 0..times {
        let made = directory.join(format!("churn{number}"));
        std::fs::create_dir(&made).expect("made");
        std::fs::remove_dir(&made).expect("removed");
    }
}

fn of_process(usage: &[MetadataUsage], disk: &Disk, process_id: u32) -> (u64, u64) {
    let ours = usage.iter().filter(|usage| usage.process_id == process_id);
    ours.fold((0, 0), |(handles, blocks), usage| {
        assert_eq!(usage.filesystem, disk.device_number());
        (handles + usage.handles, blocks + usage.dirtied_blocks)
    })
}

#[test]
fn who_changes_metadata_is_told_on_demand_and_of_that_filesystem_alone() {
    let Some((probes, disk)) = set_up(Kind::Ext4, &config(0, NEVER)) else { return };
    let foreign = match Disk::on_disk(Kind::Ext4) {
        Ok(disk) => disk,
        Err(reason) => return eprintln!("skipped: {reason}"),
    };
    let mut writer = Writer::start(&disk.directory());
    watch(&probes, &disk, &writer);
    let hangs = |probes: &Probes| probes.facts().attached.contains(&"jbd2_handle_stats");
    churn(&disk.directory(), 50);
    assert_eq!((probes.metadata_usage(), hangs(&probes)), (Vec::new(), false));
    probes.watch_journals(&[disk.device_number()]).expect("attached");
    assert!(hangs(&probes));
    churn(&foreign.directory(), 200);
    assert_eq!(of_process(&probes.metadata_usage(), &disk, std::process::id()), (0, 0));
    churn(&disk.directory(), 200);
    writer.carry_out(order("write+fsync", "member/file", 3, 100));
    let usage = probes.metadata_usage();
    eprintln!("{usage:?}");
    let (handles, blocks) = of_process(&usage, &disk, std::process::id());
    // A block that the running transaction has already is not dirtied anew: at least each directory's own is.
    assert!(handles >= 400 && blocks >= 200, "{handles} handles, {blocks} blocks");
    let (of_writer, _) = of_process(&usage, &disk, writer.pid());
    assert!(of_writer > 0 && of_writer < 100, "{of_writer}");
    let own = std::fs::read_to_string("/proc/thread-self/comm").expect("own");
    let first = usage.iter().find(|usage| usage.process_id == std::process::id()).expect("among them");
    assert!(first.comm.starts_with(own.trim_end().as_bytes()), "{first:?}");
    probes.watch_journals(&[]).expect("detached");
    churn(&disk.directory(), 50);
    assert_eq!((probes.metadata_usage(), hangs(&probes)), (Vec::new(), false));
    assert_eq!(crate::lost(&probes), []);
}
