//! From kernel structures to files: which file a descriptor means, which class a file has.

use etcdmon_agent_ebpf::{
    class::{Class, Name, class_of},
    offset::Field,
};

use crate::{
    maps::FileKey,
    read::{current_task, field, offset, word},
};

const KIND: u16 = 0o170_000;
const DIRECTORY: u16 = 0o040_000;
const REGULAR: u16 = 0o100_000;
const BLOCK_DEVICE: u16 = 0o060_000;

/// The file behind a descriptor of the current process.
#[inline(always)]
pub fn of_descriptor(descriptor: u64) -> Option<u64> {
    let files: u64 = field(current_task(), Field::TaskFiles)?;
    let table: u64 = field(files, Field::FilesTable)?;
    let length: u32 = field(table, Field::TableLength)?;
    let descriptor = descriptor & 0xffff_ffff;
    if descriptor >= length as u64 {
        return None;
    }
    let open: u64 = field(table, Field::TableFiles)?;
    let file: u64 = word(open + descriptor * 8)?;
    if file == 0 { None } else { Some(file) }
}

#[inline(always)]
pub fn inode_of(file: u64) -> Option<u64> {
    field(file, Field::FileInode)
}

#[inline(always)]
fn kind(inode: u64) -> Option<u16> {
    Some(field::<u16>(inode, Field::InodeMode)? & KIND)
}

/// Whether the file is one that is written to by name.
#[inline(always)]
pub fn is_regular(inode: u64) -> bool {
    kind(inode) == Some(REGULAR)
}

/// Whether the file can be synced: sockets, pipes and the like can't.
#[inline(always)]
pub fn is_syncable(inode: u64) -> bool {
    matches!(kind(inode), Some(REGULAR | DIRECTORY | BLOCK_DEVICE))
}

#[inline(always)]
pub fn number(inode: u64) -> u64 {
    field(inode, Field::InodeNumber).unwrap_or_default()
}

/// The device number of the inode's filesystem, 0 if unknown.
#[inline(always)]
pub fn device(inode: u64) -> u32 {
    field(inode, Field::InodeSuperBlock)
        .and_then(|super_block: u64| field(super_block, Field::SuperBlockDevice))
        .unwrap_or_default()
}

#[inline(always)]
pub fn key(inode: u64) -> FileKey {
    FileKey { inode, number: number(inode) }
}

#[inline(always)]
fn name_of(dentry: u64) -> Option<Name> {
    let len: u32 = field(dentry, Field::DentryNameLength)?;
    let text: u64 = field(dentry, Field::DentryName)?;
    // Eight bytes from the start are always readable: short names live in the dentry, long ones are longer.
    let head: u64 = word(text)?;
    let tail = if len < 8 { Name::tail_of_short(len, head) } else { word(text + len as u64 - 8)? };
    Some(Name { len, head, tail })
}

/// The class of the regular file with this name in its directory. `None` if it can't be read.
#[inline(always)]
fn class_of_dentry(dentry: u64) -> Option<Class> {
    let verdict = class_of(name_of(dentry)?);
    if !verdict.only_in_snap {
        return Some(verdict.class);
    }
    let parent: u64 = field(dentry, Field::DentryParent)?;
    Some(if name_of(parent)?.is_snap() { verdict.class } else { Class::Other })
}

/// The class of an open file. `None` if it can't be read.
#[inline(always)]
pub fn class_of_file(file: u64, inode: u64) -> Option<Class> {
    if kind(inode)? == DIRECTORY {
        return Some(Class::Directory);
    }
    class_of_dentry(field(file, Field::FileDentry)?)
}

/// The class of a regular file by one of its names. `None` if it has none or it can't be read.
#[inline(always)]
pub fn class_of_inode(inode: u64) -> Option<Class> {
    let alias: u64 = field(inode, Field::InodeAliases)?;
    if alias == 0 {
        return None;
    }
    class_of_dentry(alias - offset(Field::DentryAlias)?)
}
