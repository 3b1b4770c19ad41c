//! Which kernel fields the programs need, where they are in the running kernel, and what is off without them.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Read as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use etcdmon_agent_ebpf::{
    loss::Program,
    offset::{FIELDS, Field, MISSING},
};
use serde::{Deserialize, Serialize};

use super::btf::{Btf, BtfError};

/// Where a kernel keeps its BTF.
pub const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// The module whose fields are needed, beside the kernel's file.
const JOURNAL_MODULE: &str = "jbd2";

/// Name of the hidden subcommand that prints offsets.
pub const SUBCOMMAND: &str = "btf-offsets";

/// A starved machine may take long; one that takes longer has other troubles.
const CHILD_TIMEOUT: Duration = Duration::from_secs(60);

/// Offsets that can't be had.
#[derive(Debug, thiserror::Error)]
pub enum OffsetError {
    /// The kernel offers no BTF.
    #[error("read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// The BTF is not understood.
    #[error("understand {path}")]
    Btf {
        /// The file.
        path: PathBuf,
        /// Cause.
        #[source]
        source: BtfError,
    },
    /// The child that reads BTF could not be run.
    #[error("run {program} {SUBCOMMAND}")]
    Child {
        /// The program.
        program: PathBuf,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// The child failed.
    #[error("{SUBCOMMAND} failed: {message}")]
    ChildFailed {
        /// Its last words.
        message: String,
    },
    /// The child's answer is not one.
    #[error("understand the answer of {SUBCOMMAND}")]
    Answer(#[source] serde_json::Error),
}

/// Names under which kernels have known a field, the newest first.
const fn paths(field: Field) -> &'static [&'static str] {
    match field {
        Field::TaskRunDelay => &["task_struct.sched_info.run_delay"],
        Field::TaskFiles => &["task_struct.files"],
        Field::FilesTable => &["files_struct.fdt"],
        Field::TableLength => &["fdtable.max_fds"],
        Field::TableFiles => &["fdtable.fd"],
        Field::FileInode => &["file.f_inode"],
        Field::FileDentry => &["file.f_path.dentry"],
        Field::InodeMode => &["inode.i_mode"],
        Field::InodeNumber => &["inode.i_ino"],
        Field::InodeSuperBlock => &["inode.i_sb"],
        Field::InodeAliases => &["inode.i_dentry.first"],
        Field::SuperBlockDevice => &["super_block.s_dev"],
        Field::DentryParent => &["dentry.d_parent"],
        Field::DentryNameLength => &["dentry.d_name.len"],
        Field::DentryName => &["dentry.d_name.name"],
        Field::DentryAlias => &["dentry.d_u.d_alias", "dentry.d_alias"],
        Field::RegistersFirst => &["pt_regs.di", "pt_regs.regs"],
        Field::TaskFlags => &["task_struct.flags"],
        Field::RequestQueue => &["request.q"],
        Field::RequestFlags => &["request.cmd_flags"],
        Field::RequestLength => &["request.__data_len"],
        Field::RequestStart => &["request.start_time_ns"],
        Field::RequestEndIo => &["request.end_io"],
        Field::RequestDisk => &["request.rq_disk"],
        Field::QueueDisk => &["request_queue.disk"],
        Field::DiskMajor => &["gendisk.major"],
        Field::DiskFirstMinor => &["gendisk.first_minor"],
        Field::RequestBio => &["request.bio"],
        Field::BioGroup => &["bio.bi_blkg"],
        Field::GroupPolicy => &["blkcg_gq.blkcg"],
        Field::PolicyCgroup => &["blkcg.css.cgroup"],
        Field::CgroupNode => &["cgroup.kn"],
        Field::NodeId => &["kernfs_node.id"],
        Field::BioVectors => &["bio.bi_io_vec"],
        Field::VectorPage => &["bio_vec.bv_page"],
        Field::PageHead => &["page.compound_info", "page.compound_head"],
        Field::PageMapping => &["page.mapping", "folio.mapping"],
        Field::MappingHost => &["address_space.host"],
        Field::JournalDevice => &["journal_s.j_fs_dev"],
        Field::BlockDeviceDisk => &["block_device.bd_disk"],
        Field::TransactionNumber => &["transaction_s.t_tid"],
        Field::TaskRunStart => &["task_struct.se.exec_start"],
        Field::TaskRunTime => &["task_struct.se.sum_exec_runtime"],
        Field::BioDevice => &["bio.bi_bdev"],
        Field::BioDisk => &["bio.bi_disk"],
        Field::DiskQueue => &["gendisk.queue"],
        Field::BioLength => &["bio.bi_iter.bi_size"],
        Field::BioFlags => &["bio.bi_opf"],
        Field::RequestTail => &["request.biotail"],
        Field::TaskProcess => &["task_struct.tgid"],
        Field::DentryNameHash => &["dentry.d_name.hash"],
    }
}

/// The field that older kernels have in place of this one.
const fn instead(field: Field) -> Option<Field> {
    match field {
        Field::QueueDisk => Some(Field::RequestDisk),
        Field::BioDevice => Some(Field::BioDisk),
        _ => None,
    }
}

/// The event of each program that has a variant for one that begins with the queue. 5.11 dropped it, and later versions of
/// 5.10 of some: not the kernel's version tells, but its types.
const MAY_BEGIN_WITH_QUEUE: [(Program, &str); 3] = [
    (Program::BlockIssue, "block_rq_issue"),
    (Program::BlockMerge, "block_rq_merge"),
    (Program::BlockSubmit, "block_getrq"),
];

/// Something the programs can do if the kernel has its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Feature {
    /// Files are told apart at all. Nothing is worth loading without.
    FileClass,
    /// The class of written bytes at the filesystem's hook.
    WriteClass,
    /// Files by descriptor: the syscall hooks.
    Descriptor,
    /// Write calls in slots.
    Slot,
    /// Run-queue delay of a sync.
    RunDelay,
    /// Time on a CPU in records.
    RunTime,
    /// Device number in records.
    Device,
    /// Requests of a disk.
    Requests,
    /// Kernel threads are told from other submitters.
    Submitter,
    /// Who submitted a request, by its first bio: before 6.5.
    SubmitterByBio,
    /// The cgroup that is charged for a request.
    Charged,
    /// The file that a kernel thread writes.
    RequestFile,
    /// Commits of journals.
    Commits,
    /// Signals to watched processes.
    Signals,
}

impl Feature {
    /// Every feature.
    pub const ALL: [Self; 14] = [
        Self::FileClass,
        Self::WriteClass,
        Self::Descriptor,
        Self::Slot,
        Self::RunDelay,
        Self::RunTime,
        Self::Device,
        Self::Requests,
        Self::Submitter,
        Self::SubmitterByBio,
        Self::Charged,
        Self::RequestFile,
        Self::Commits,
        Self::Signals,
    ];

    /// Stable name, as the agent reports it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::FileClass => "sync.class",
            Self::WriteClass => "write.class",
            Self::Descriptor => "sync.hook.syscall",
            Self::Slot => "write.slot",
            Self::RunDelay => "sync.run_delay",
            Self::RunTime => "sync.run_time",
            Self::Device => "sync.device",
            Self::Requests => "block.requests",
            Self::Submitter => "block.kernel_threads",
            Self::SubmitterByBio => "block.submitter_by_bio",
            Self::Charged => "block.charged_cgroup",
            Self::RequestFile => "block.file",
            Self::Commits => "journal.commits",
            Self::Signals => "process.signals",
        }
    }

    /// The fields it can't do without.
    pub const fn needs(self) -> &'static [Field] {
        match self {
            Self::FileClass => &[
                Field::FileInode,
                Field::FileDentry,
                Field::InodeMode,
                Field::InodeNumber,
                Field::DentryParent,
                Field::DentryNameLength,
                Field::DentryName,
            ],
            Self::WriteClass => &[Field::InodeAliases, Field::DentryAlias, Field::DentryNameHash],
            Self::Descriptor => &[Field::TaskFiles, Field::FilesTable, Field::TableLength, Field::TableFiles],
            Self::Slot => &[
                Field::RegistersFirst,
                Field::TaskFiles,
                Field::FilesTable,
                Field::TableLength,
                Field::TableFiles,
            ],
            Self::RunDelay => &[Field::TaskRunDelay],
            Self::RunTime => &[Field::TaskRunStart, Field::TaskRunTime],
            Self::Device => &[Field::InodeSuperBlock, Field::SuperBlockDevice],
            Self::Requests => &[
                Field::RequestQueue,
                Field::RequestFlags,
                Field::RequestLength,
                Field::RequestStart,
                Field::RequestEndIo,
                Field::QueueDisk,
                Field::DiskMajor,
                Field::DiskFirstMinor,
            ],
            Self::Submitter => &[Field::TaskFlags],
            Self::SubmitterByBio => &[
                Field::BioDevice,
                Field::BlockDeviceDisk,
                Field::DiskQueue,
                Field::BioLength,
                Field::BioFlags,
                Field::RequestBio,
                Field::RequestTail,
            ],
            Self::Charged => &[
                Field::RequestBio,
                Field::BioGroup,
                Field::GroupPolicy,
                Field::PolicyCgroup,
                Field::CgroupNode,
                Field::NodeId,
            ],
            Self::RequestFile => &[
                Field::RequestBio,
                Field::BioVectors,
                Field::VectorPage,
                Field::PageHead,
                Field::PageMapping,
                Field::MappingHost,
                Field::InodeMode,
                Field::InodeNumber,
            ],
            Self::Commits => &[
                Field::JournalDevice,
                Field::BlockDeviceDisk,
                Field::DiskMajor,
                Field::DiskFirstMinor,
                Field::TransactionNumber,
            ],
            Self::Signals => &[Field::TaskProcess],
        }
    }
}

/// Offsets of all fields in one kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offsets {
    values: [u32; FIELDS],
    /// Events of [`MAY_BEGIN_WITH_QUEUE`] that do.
    begin_with_queue: BTreeSet<String>,
}

/// The child's answer: offset by the field's newest name, and events. What is missing is not there.
#[derive(Serialize, Deserialize)]
struct Answer {
    offsets: BTreeMap<String, u32>,
    #[serde(default)]
    begin_with_queue: BTreeSet<String>,
}

impl Offsets {
    /// Looks every field up, in the kernel's BTF and then in that of a module.
    ///
    /// # Errors
    /// When the kernel's bytes are not BTF; a module's that are not count for nothing. A field that is not there is not an
    /// error: see [`Self::lacks`].
    pub fn from_btf(kernel: &[u8], module: &[u8]) -> Result<Self, BtfError> {
        let kernel = Btf::parse(kernel)?;
        let module = Btf::parse_above(Some(&kernel), module).ok();
        let find = |path: &&str| {
            kernel.offset(path).or_else(|| module.as_ref().and_then(|module| module.offset(path)))
        };
        let begins = |event: &&str| kernel.first_argument_is(event, "request_queue") == Some(true);
        let events = MAY_BEGIN_WITH_QUEUE.iter().map(|(_, event)| *event);
        Ok(Self {
            values: Field::ALL.map(|field| paths(field).iter().find_map(find).unwrap_or(MISSING)),
            begin_with_queue: events.filter(begins).map(str::to_owned).collect(),
        })
    }

    /// Reads the kernel's BTF file, and a module's beside it, in this process.
    ///
    /// # Errors
    /// When the file can't be read or is not BTF.
    pub fn from_file(path: &Path) -> Result<Self, OffsetError> {
        let bytes =
            std::fs::read(path).map_err(|source| OffsetError::Read { path: path.to_owned(), source })?;
        // Without the module, or with jbd2 in the kernel itself, there is no such file.
        let module = std::fs::read(path.with_file_name(JOURNAL_MODULE)).unwrap_or_default();
        Self::from_btf(&bytes, &module).map_err(|source| OffsetError::Btf { path: path.to_owned(), source })
    }

    /// Has a child read the BTF file, so that the memory it takes is given back: `program btf-offsets path`.
    ///
    /// # Errors
    /// When the child can't be run, fails or takes too long.
    pub fn from_child(program: &Path, path: &Path) -> Result<Self, OffsetError> {
        let failed = |source| OffsetError::Child { program: program.to_owned(), source };
        let mut child = Command::new(program)
            .arg(SUBCOMMAND)
            .arg(path)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let begin = Instant::now();
        // The answer is far smaller than a pipe holds, so the child never waits for us to read.
        let status = loop {
            if let Some(status) = child.try_wait().map_err(failed)? {
                break status;
            }
            if begin.elapsed() > CHILD_TIMEOUT {
                let _ = child.kill();
                let _ = child.wait();
                return Err(OffsetError::ChildFailed { message: format!("no answer in {CHILD_TIMEOUT:?}") });
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let mut answer = String::new();
        let mut words = String::new();
        child.stdout.take().map(|mut out| out.read_to_string(&mut answer)).transpose().map_err(failed)?;
        child.stderr.take().map(|mut err| err.read_to_string(&mut words)).transpose().map_err(failed)?;
        if !status.success() {
            let last = words.lines().next_back().unwrap_or("no message");
            return Err(OffsetError::ChildFailed { message: last.to_owned() });
        }
        Self::from_json(&answer)
    }

    /// Reverses [`Self::to_json`].
    ///
    /// # Errors
    /// When it is not such an object.
    pub fn from_json(text: &str) -> Result<Self, OffsetError> {
        let answer: Answer = serde_json::from_str(text).map_err(OffsetError::Answer)?;
        let value = |field| answer.offsets.get(paths(field)[0]).copied().unwrap_or(MISSING);
        Ok(Self { values: Field::ALL.map(value), begin_with_queue: answer.begin_with_queue })
    }

    /// One JSON object on one line.
    pub fn to_json(&self) -> String {
        let known = Field::ALL.into_iter().filter(|field| self.has(*field));
        let offsets = known.map(|field| (paths(field)[0].to_owned(), self.values[field as usize])).collect();
        let answer = Answer { offsets, begin_with_queue: self.begin_with_queue.clone() };
        serde_json::to_string(&answer).expect("maps and sets of strings are always JSON")
    }

    /// As the programs want them: by index of [`Field`].
    pub const fn values(&self) -> &[u32; FIELDS] {
        &self.values
    }

    /// Whether the event of a program begins with the queue in this kernel.
    pub fn begins_with_queue(&self, program: Program) -> bool {
        let event = MAY_BEGIN_WITH_QUEUE.iter().find(|(of, _)| *of == program);
        event.is_some_and(|(_, event)| self.begin_with_queue.contains(*event))
    }

    const fn has(&self, field: Field) -> bool {
        self.values[field as usize] != MISSING
    }

    /// The fields that a feature needs and this kernel does not have, by their newest names.
    pub fn lacks(&self, feature: Feature) -> Vec<&'static str> {
        let there = |field: Field| self.has(field) || instead(field).is_some_and(|older| self.has(older));
        let missing = feature.needs().iter().filter(|field| !there(**field));
        missing.map(|field| paths(*field)[0]).collect()
    }
}

/// What the hidden subcommand does: prints the offsets in the BTF file at `path` as JSON.
///
/// # Errors
/// When the file can't be read or is not BTF.
pub fn print_offsets(path: &Path) -> Result<(), OffsetError> {
    use std::io::Write as _;
    let answer = Offsets::from_file(path)?.to_json();
    // A closed pipe means nobody wants the answer any more.
    let _ = writeln!(std::io::stdout(), "{answer}");
    Ok(())
}

#[cfg(test)]
mod tests;
