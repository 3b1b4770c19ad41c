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
}

/// Number of fields.
pub const FIELDS: usize = 17;

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
    ];
}
