//! Starting the probes: what must be given, what is read beforehand, and what may be missing.

use std::path::Path;

use aya::{
    Ebpf, EbpfLoader,
    maps::{Map, MapData},
};
use etcdmon_agent_ebpf::{call::NUMBERS, loss::Program};

use super::{
    Degraded, ProbeConfig, ProbeError,
    mapped::Mapped,
    offsets::{Feature, KERNEL_BTF, Offsets},
    programs::{Programs, Set, Variants},
};

/// The inode of the initial pid namespace (include/linux/proc_ns.h).
const INITIAL_PID_NAMESPACE: u64 = 0xefff_fffc;

/// This machine's numbers of the calls that a write slot looks for.
const CALL_NUMBERS: [u32; NUMBERS] = [
    libc::SYS_write as u32,
    libc::SYS_pwrite64 as u32,
    libc::SYS_writev as u32,
    libc::SYS_pwritev as u32,
    libc::SYS_pwritev2 as u32,
    libc::SYS_sync_file_range as u32,
];

pub(super) fn map_error(
    name: &'static str,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> ProbeError {
    ProbeError::Map { name, source: source.into() }
}

pub(super) fn mapped(map: Map, name: &'static str, words: usize) -> Result<Mapped, ProbeError> {
    use std::os::fd::AsFd as _;
    let Map::Array(data) = map else { return Err(map_error(name, "not an array")) };
    let data: MapData = data;
    Mapped::new(data.fd().as_fd(), words).map_err(|source| map_error(name, source))
}

pub(super) fn find_offsets(config: &ProbeConfig) -> Result<Offsets, ProbeError> {
    let path = Path::new(KERNEL_BTF);
    if let Some(program) = &config.offsets_program {
        match Offsets::from_child(program, path) {
            Ok(offsets) => return Ok(offsets),
            // The file itself may be the cause; then reading it here tells so in better words.
            Err(error) => tracing::debug!(%error, "read the kernel's type information in this process"),
        }
    }
    Offsets::from_file(path).map_err(ProbeError::Offsets)
}

pub(super) fn open(config: &ProbeConfig, offsets: &Offsets, object: &[u8]) -> Result<Ebpf, ProbeError> {
    const OFF: u8 = 0;
    const DEBUG: u8 = 4;
    let page = 4096;
    let ring_bytes = config.ring_bytes.clamp(page, 1 << 30).next_power_of_two();
    let log_level = if config.kernel_log { DEBUG } else { OFF };
    let controllers = std::fs::read_to_string("/proc/cgroups").unwrap_or_default();
    let separate_io_cgroups = u32::from(has_separate_io_cgroups(&controllers));
    EbpfLoader::new()
        .btf(None)
        .override_global("OFFSETS", offsets.values(), true)
        .override_global("CALL_NUMBERS", &CALL_NUMBERS, true)
        .override_global("SEPARATE_IO_CGROUPS", &separate_io_cgroups, true)
        .override_global("AYA_LOG_LEVEL", &log_level, true)
        .map_max_entries("RECORDS", ring_bytes)
        .load(object)
        .map_err(|source| ProbeError::Load(Box::new(source)))
}

/// Whether the block controller hangs on a hierarchy of its own (cgroup v1), by /proc/cgroups.
fn has_separate_io_cgroups(table: &str) -> bool {
    table.lines().any(|line| {
        let mut words = line.split_whitespace();
        words.next() == Some("blkio") && words.next().is_some_and(|hierarchy| hierarchy != "0")
    })
}

/// Which of several functions are loaded for this kernel.
pub(super) fn variants(config: &ProbeConfig, offsets: &Offsets) -> Variants {
    let after_queue = Program::ALL.map(|program| offsets.begins_with_queue(program));
    // Programs of typed tracepoints are exact, and see a request as the first argument.
    let typed = config.typed && config.exact_sample && !after_queue.contains(&true);
    Variants { exact: config.exact_sample, after_queue, typed }
}

/// What this kernel can't do of what the programs offer.
pub(super) fn degraded(offsets: &Offsets, programs: &Programs) -> Vec<Degraded> {
    let features = Feature::ALL.into_iter().filter_map(|feature| {
        let missing = offsets.lacks(feature);
        (!missing.is_empty()).then(|| Degraded {
            capability: feature.name().to_owned(),
            reason: format!("this kernel has no {}", missing.join(", ")),
            remedy: "report the kernel's version and its /sys/kernel/btf/vmlinux",
        })
    });
    let refused = programs.refused().map(|(program, reason)| Degraded {
        capability: format!("program.{program}"),
        reason: reason.to_owned(),
        remedy: "use a kernel from 5.8 on, or report its version with this message",
    });
    let sample = (!programs.is_exact()).then(|| Degraded {
        capability: "sync.sample".to_owned(),
        reason: "syncs that end at the same time may shift the sample".to_owned(),
        remedy: "use a kernel from 5.12 on",
    });
    features.chain(refused).chain(sample).collect()
}

/// A set of hooks of disks that can't be attached.
pub(super) fn device_degraded(set: Set, reason: String) -> Degraded {
    let (capability, remedy) = match set {
        Set::Submissions | Set::SubmissionsByBio => {
            ("block.submitter", "report the kernel's version with this message")
        }
        Set::Signals => ("signal.hook", "report the kernel's version with this message"),
        Set::Commits => ("journal.hooks", "none is needed where no filesystem has a jbd2 journal (ext4)"),
        _ => ("block.hooks", "report the kernel's version with this message"),
    };
    Degraded { capability: capability.to_owned(), reason, remedy }
}

/// Fails unless the effective capabilities in /proc/self/status allow to load tracing programs.
pub(super) fn check_privilege(status: &str) -> Result<(), ProbeError> {
    const SYS_ADMIN: u32 = 21;
    const NEEDED: [(u32, &str); 2] = [(38, "CAP_PERFMON"), (39, "CAP_BPF")];
    let effective = status
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok())
        // Not known: the kernel will tell.
        .unwrap_or(u64::MAX);
    let has = |capability: u32| effective >> capability & 1 == 1;
    let missing: Vec<&str> = NEEDED.iter().filter(|(bit, _)| !has(*bit)).map(|(_, name)| *name).collect();
    if missing.is_empty() || has(SYS_ADMIN) {
        return Ok(());
    }
    Err(ProbeError::Privilege { missing: missing.join(", ") })
}

/// Fails in a pid namespace of a container: the programs see the host's process ids.
pub(super) fn check_pid_namespace() -> Result<(), ProbeError> {
    use std::os::unix::fs::MetadataExt as _;
    match std::fs::metadata("/proc/self/ns/pid") {
        Ok(namespace) if namespace.ino() != INITIAL_PID_NAMESPACE => Err(ProbeError::PidNamespace),
        _ => Ok(()),
    }
}

/// aya reads the kernel's whole type information whether the object needs it or not: some 18 MiB, free by now.
pub(super) fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes a number; the allocator sees to its own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests;
