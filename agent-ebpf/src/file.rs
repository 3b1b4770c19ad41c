//! From kernel structures to files: which file a descriptor means, which class a file has.

use etcdmon_agent_ebpf::{
    class::{CLASSES, Class, Name, class_of},
    offset::Field,
};

use crate::{
    maps::FileKey,
    read::{Checked, Read, offset},
};

const KIND: u16 = 0o170_000;
const DIRECTORY: u16 = 0o040_000;
const REGULAR: u16 = 0o100_000;
const BLOCK_DEVICE: u16 = 0o060_000;

/// The file behind a descriptor of the current process.
#[inline(always)]
pub fn of_descriptor(descriptor: u64) -> Option<u64> {
    let files: u64 = Checked::field(Checked::current_task(), Field::TaskFiles)?;
    let table: u64 = Checked::field(files, Field::FilesTable)?;
    let length: u32 = Checked::field(table, Field::TableLength)?;
    let descriptor = descriptor & 0xffff_ffff;
    if descriptor >= length as u64 {
        return None;
    }
    let open: u64 = Checked::field(table, Field::TableFiles)?;
    let file: u64 = Checked::word(open + descriptor * 8)?;
    if file == 0 { None } else { Some(file) }
}

#[inline(always)]
pub fn inode_of<R: Read>(file: u64) -> Option<u64> {
    R::field(file, Field::FileInode)
}

#[inline(always)]
fn kind<R: Read>(inode: u64) -> Option<u16> {
    Some(R::field::<u16>(inode, Field::InodeMode)? & KIND)
}

/// Whether the file is one that is written to by name.
#[inline(always)]
pub fn is_regular(inode: u64) -> bool {
    kind::<Checked>(inode) == Some(REGULAR)
}

/// Whether the file can be synced: sockets, pipes and the like can't.
#[inline(always)]
pub fn is_syncable(inode: u64) -> bool {
    matches!(kind::<Checked>(inode), Some(REGULAR | DIRECTORY | BLOCK_DEVICE))
}

#[inline(always)]
pub fn is_directory<R: Read>(inode: u64) -> bool {
    kind::<R>(inode) == Some(DIRECTORY)
}

#[inline(always)]
pub fn number<R: Read>(inode: u64) -> u64 {
    R::field(inode, Field::InodeNumber).unwrap_or_default()
}

/// The device number of the inode's filesystem, 0 if unknown.
#[inline(always)]
pub fn device<R: Read>(inode: u64) -> u32 {
    R::field(inode, Field::InodeSuperBlock)
        .and_then(|super_block: u64| R::field(super_block, Field::SuperBlockDevice))
        .unwrap_or_default()
}

#[inline(always)]
pub fn key<R: Read>(inode: u64) -> FileKey {
    FileKey { inode, number: number::<R>(inode) }
}

/// An open file's name.
#[inline(always)]
pub fn name_of_file<R: Read>(file: u64) -> Option<u64> {
    R::field(file, Field::FileDentry)
}

/// One of the names of an inode, for the checked way to read. `None` if it has none.
#[inline(always)]
pub fn name_of_inode<R: Read>(inode: u64) -> Option<u64> {
    let alias: u64 = R::field(inode, Field::InodeAliases)?;
    if alias == 0 { None } else { Some(alias - offset(Field::DentryAlias)?) }
}

/// A class and the name that it was told from: the lowest byte is the class's index plus one, above it lie the name's length
/// and hash. The hash takes in the directory's address, so that the same name elsewhere is another name. 0 = not known.
#[derive(Clone, Copy)]
pub struct ClassOfName(u64);

impl ClassOfName {
    /// Nothing is known.
    pub const NOTHING: Self = Self(0);

    /// As it was kept.
    #[inline(always)]
    pub fn from_word(word: u64) -> Self {
        Self(word)
    }

    /// To be kept.
    #[inline(always)]
    pub fn word(self) -> u64 {
        self.0
    }

    /// Index of the class; [`CLASSES`] if it is not known.
    #[inline(always)]
    pub fn index(self) -> u32 {
        let class = (self.0 & 0xff) as u32;
        if class == 0 { CLASSES as u32 } else { class - 1 }
    }

    /// The same for the name as it is now, which is only looked at if it is another one.
    #[inline(always)]
    pub fn now<R: Read>(self, dentry: Option<u64>) -> Self {
        let Some(dentry) = dentry else { return Self::NOTHING };
        let name = key_of_name::<R>(dentry).unwrap_or_default();
        if name != 0 && self.0 >> 8 == name {
            return self;
        }
        match class_of_dentry::<R>(dentry) {
            Some(class) => Self(name << 8 | (class as u64 + 1)),
            None => Self::NOTHING,
        }
    }
}

/// Hash and length of a name in 56 bits; no name has 0.
#[inline(always)]
fn key_of_name<R: Read>(dentry: u64) -> Option<u64> {
    let hash: u32 = R::field(dentry, Field::DentryNameHash)?;
    let length: u32 = R::field(dentry, Field::DentryNameLength)?;
    Some((hash as u64) << 24 | (length & 0xff_ffff) as u64)
}

#[inline(always)]
fn name_of<R: Read>(dentry: u64) -> Option<Name> {
    let len: u32 = R::field(dentry, Field::DentryNameLength)?;
    let text: u64 = R::field(dentry, Field::DentryName)?;
    // Eight bytes from the start are always readable: short names live in the dentry, long ones are longer.
    let head: u64 = Checked::word(text)?;
    let tail = if len < 8 { Name::tail_of_short(len, head) } else { Checked::word(text + len as u64 - 8)? };
    Some(Name { len, head, tail })
}

/// The class of the regular file with this name in its directory. `None` if it can't be read.
#[inline(always)]
fn class_of_dentry<R: Read>(dentry: u64) -> Option<Class> {
    let verdict = class_of(name_of::<R>(dentry)?);
    if !verdict.only_in_snap {
        return Some(verdict.class);
    }
    let parent: u64 = R::field(dentry, Field::DentryParent)?;
    Some(if name_of::<R>(parent)?.is_snap() { verdict.class } else { Class::Other })
}
