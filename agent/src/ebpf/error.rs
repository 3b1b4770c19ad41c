//! Why probes can't be had, and what a person can do about it.

use super::offsets::OffsetError;

/// Probes that can't be loaded, or a process that can't be watched. The rest of the agent goes on without.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The agent was built without the kernel programs.
    #[error("this agent was built without its kernel programs")]
    ObjectMissing,
    /// The process may not load programs.
    #[error("no right to load kernel programs: {missing} missing")]
    Privilege {
        /// Capabilities that are missing.
        missing: String,
    },
    /// The agent sees other process ids than the kernel programs do.
    #[error("the agent is not in the host's pid namespace")]
    PidNamespace,
    /// The kernel's layout is not known.
    #[error("find the kernel's structure offsets")]
    Offsets(#[source] OffsetError),
    /// The kernel lacks fields without which nothing can be counted.
    #[error("this kernel has no {fields}")]
    Fields {
        /// Their names.
        fields: String,
    },
    /// The object or its maps were refused.
    #[error("load the kernel programs")]
    Load(#[source] Box<aya::EbpfError>),
    /// A map of the object is not as expected.
    #[error("use map {name}")]
    Map {
        /// Its name.
        name: &'static str,
        /// Cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Neither hook can be attached.
    #[error("no hook for process {pid}: filesystem: {filesystem}; syscall: {syscall}")]
    NoHook {
        /// The process.
        pid: u32,
        /// Why not the filesystem's tracepoints.
        filesystem: String,
        /// Why not the syscall tracepoints.
        syscall: String,
    },
    /// As many processes are watched as can be.
    #[error("all {slots} slots are taken")]
    NoSlot {
        /// How many there are.
        slots: usize,
    },
    /// More disks are to be watched than can be.
    #[error("{devices} disks to watch, {limit} can be")]
    TooManyDevices {
        /// How many there are.
        devices: usize,
        /// How many can be watched.
        limit: usize,
    },
    /// The hooks of a write slot can't be attached.
    #[error("open a write slot: {reason}")]
    WriteSlot {
        /// Why.
        reason: String,
    },
    /// The hook that shows who changes metadata can't be attached.
    #[error("watch who changes metadata: {reason}")]
    Journals {
        /// Why.
        reason: String,
    },
}

impl ProbeError {
    /// What a person can do about it.
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::ObjectMissing => {
                "run `cargo xtask ebpf` and build the agent again, or install a released agent"
            }
            Self::Privilege { .. } => {
                "run the agent as root with CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE (CAP_SYS_ADMIN before Linux 5.8)"
            }
            Self::PidNamespace => "run the agent in the host's pid namespace (hostPID: true, --pid=host)",
            Self::Offsets(_) => "use a kernel with CONFIG_DEBUG_INFO_BTF=y and /sys mounted",
            Self::Fields { .. } => {
                "use a kernel from 5.8 to 7.3, or report its version and /sys/kernel/btf/vmlinux"
            }
            Self::Load(_) | Self::Map { .. } => {
                "check that kernel lockdown and seccomp allow bpf(2) and that the kernel is 5.8 or later"
            }
            Self::NoHook { .. } => {
                "mount tracefs at /sys/kernel/tracing, or add CAP_SYS_ADMIN so that the agent can open it by itself"
            }
            Self::WriteSlot { .. } | Self::Journals { .. } => {
                "report the kernel's version with this message; everything else goes on"
            }
            Self::TooManyDevices { .. } => "watch fewer data directories with one agent",
            Self::NoSlot { .. } => "run fewer etcd members on this node, or a second agent for the others",
        }
    }
}
