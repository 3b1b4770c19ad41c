//! Offsets of kernel fields: the array `OFFSETS`, filled by user space from the running kernel's BTF before loading.

/// A field the programs read. The numbers are indices into `OFFSETS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Field {
    /// `task_struct.sched_info.run_delay`, u64.
    TaskRunDelay = 0,
    /// `task_struct.files`, pointer.
    TaskFiles = 1,
    /// `files_struct.fdt`, pointer.
    FilesTable = 2,
    /// `fdtable.max_fds`, u32.
    TableLength = 3,
    /// `fdtable.fd`, pointer to pointers.
    TableFiles = 4,
    /// `file.f_inode`, pointer.
    FileInode = 5,
    /// `file.f_path.dentry`, pointer.
    FileDentry = 6,
    /// `inode.i_mode`, u16.
    InodeMode = 7,
    /// `inode.i_ino`, u64.
    InodeNumber = 8,
    /// `inode.i_sb`, pointer.
    InodeSuperBlock = 9,
    /// `inode.i_dentry.first`, pointer to the alias node within a dentry.
    InodeAliases = 10,
    /// `super_block.s_dev`, u32.
    SuperBlockDevice = 11,
    /// `dentry.d_parent`, pointer.
    DentryParent = 12,
    /// `dentry.d_name.len`, u32.
    DentryNameLength = 13,
    /// `dentry.d_name.name`, pointer.
    DentryName = 14,
    /// `dentry.d_u.d_alias`, the node that `inode.i_dentry` points to.
    DentryAlias = 15,
    /// `pt_regs.di` on x86-64, `pt_regs.regs` on arm64: the register that carries a call's first argument, u64.
    RegistersFirst = 16,
    /// `task_struct.flags`, u32.
    TaskFlags = 17,
    /// `request.q`, pointer.
    RequestQueue = 18,
    /// `request.cmd_flags`, u32.
    RequestFlags = 19,
    /// `request.__data_len`, u32: what is not done yet.
    RequestLength = 20,
    /// `request.start_time_ns`, u64.
    RequestStart = 21,
    /// `request.end_io`, pointer: set while the flush machinery has the request.
    RequestEndIo = 22,
    /// `request.rq_disk`, pointer, up to 5.14 or so.
    RequestDisk = 23,
    /// `request_queue.disk`, pointer, from 5.15 on.
    QueueDisk = 24,
    /// `gendisk.major`, u32.
    DiskMajor = 25,
    /// `gendisk.first_minor`, u32.
    DiskFirstMinor = 26,
    /// `request.bio`, pointer to the first one.
    RequestBio = 27,
    /// `bio.bi_blkg`, pointer.
    BioGroup = 28,
    /// `blkcg_gq.blkcg`, pointer.
    GroupPolicy = 29,
    /// `blkcg.css.cgroup`, pointer.
    PolicyCgroup = 30,
    /// `cgroup.kn`, pointer.
    CgroupNode = 31,
    /// `kernfs_node.id`, u64.
    NodeId = 32,
    /// `bio.bi_io_vec`, pointer.
    BioVectors = 33,
    /// `bio_vec.bv_page`, pointer.
    VectorPage = 34,
    /// `page.compound_info`, `page.compound_head`: see [`crate::page::first_of_folio`].
    PageHead = 35,
    /// `page.mapping`, pointer with flags in the two lowest bits.
    PageMapping = 36,
    /// `address_space.host`, pointer.
    MappingHost = 37,
    /// `journal_s.j_fs_dev`, pointer.
    JournalDevice = 38,
    /// `block_device.bd_disk`, pointer.
    BlockDeviceDisk = 39,
    /// `transaction_s.t_tid`, u32.
    TransactionNumber = 40,
    /// `task_struct.se.exec_start`, u64.
    TaskRunStart = 41,
    /// `task_struct.se.sum_exec_runtime`, u64.
    TaskRunTime = 42,
    /// `bio.bi_bdev`, pointer, from 5.12 on.
    BioDevice = 43,
    /// `bio.bi_disk`, pointer, up to 5.11.
    BioDisk = 44,
    /// `gendisk.queue`, pointer.
    DiskQueue = 45,
    /// `bio.bi_iter.bi_size`, u32.
    BioLength = 46,
    /// `bio.bi_opf`, u32.
    BioFlags = 47,
    /// `request.biotail`, pointer to the last bio.
    RequestTail = 48,
    /// `task_struct.tgid`, i32.
    TaskProcess = 49,
    /// `dentry.d_name.hash`, u32: of the name and the directory's address. The length follows it.
    DentryNameHash = 50,
}

/// Number of fields.
pub const FIELDS: usize = 51;

/// The offset of a field that the running kernel does not have.
pub const MISSING: u32 = u32::MAX;

impl Field {
    /// Every field, by index.
    pub const ALL: [Self; FIELDS] = [
        Self::TaskRunDelay,
        Self::TaskFiles,
        Self::FilesTable,
        Self::TableLength,
        Self::TableFiles,
        Self::FileInode,
        Self::FileDentry,
        Self::InodeMode,
        Self::InodeNumber,
        Self::InodeSuperBlock,
        Self::InodeAliases,
        Self::SuperBlockDevice,
        Self::DentryParent,
        Self::DentryNameLength,
        Self::DentryName,
        Self::DentryAlias,
        Self::RegistersFirst,
        Self::TaskFlags,
        Self::RequestQueue,
        Self::RequestFlags,
        Self::RequestLength,
        Self::RequestStart,
        Self::RequestEndIo,
        Self::RequestDisk,
        Self::QueueDisk,
        Self::DiskMajor,
        Self::DiskFirstMinor,
        Self::RequestBio,
        Self::BioGroup,
        Self::GroupPolicy,
        Self::PolicyCgroup,
        Self::CgroupNode,
        Self::NodeId,
        Self::BioVectors,
        Self::VectorPage,
        Self::PageHead,
        Self::PageMapping,
        Self::MappingHost,
        Self::JournalDevice,
        Self::BlockDeviceDisk,
        Self::TransactionNumber,
        Self::TaskRunStart,
        Self::TaskRunTime,
        Self::BioDevice,
        Self::BioDisk,
        Self::DiskQueue,
        Self::BioLength,
        Self::BioFlags,
        Self::RequestTail,
        Self::TaskProcess,
        Self::DentryNameHash,
    ];
}
