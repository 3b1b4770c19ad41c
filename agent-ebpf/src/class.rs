//! The class of a file of etcd, told by its name and, where that is not enough, by its directory's.

/// Number of classes, and length of every array by class.
pub const CLASSES: usize = 6;

/// Class of a file. The numbers are array indices, in the order of the wire contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Class {
    /// `*.wal`, and `0.tmp`/`1.tmp` which become the next segment.
    Wal = 0,
    /// The bbolt file `snap/db`.
    Backend = 1,
    /// `*.snap`, `*.snap.db`, and `tmp*` in `snap`.
    Snapshot = 2,
    /// `db.tmp.*`, the copy that a defragmentation writes.
    Defrag = 3,
    /// Any directory.
    Directory = 4,
    /// Everything else.
    Other = 5,
}

impl Class {
    /// Every class, by index.
    pub const ALL: [Self; CLASSES] =
        [Self::Wal, Self::Backend, Self::Snapshot, Self::Defrag, Self::Directory, Self::Other];

    /// The class with this index.
    pub const fn from_index(index: u32) -> Option<Self> {
        if (index as usize) < CLASSES { Some(Self::ALL[index as usize]) } else { None }
    }
}

/// As much of a file name as classification needs: eight bytes of either end, so that the programs read two words
/// instead of a string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    /// Length of the whole name in bytes.
    pub len: u32,
    /// The first eight bytes, the first in the lowest place; bytes from `len` on are undefined.
    pub head: u64,
    /// The last eight bytes, the last in the highest place; of a shorter name zeros come first.
    pub tail: u64,
}

/// The word that `text` makes when its first byte is in the lowest place.
const fn low(text: &[u8]) -> u64 {
    let mut word = 0;
    let mut at = text.len();
    while at > 0 {
        at -= 1;
        word = (word << 8) | text[at] as u64;
    }
    word
}

impl Name {
    /// Of a name in memory.
    pub const fn new(name: &[u8]) -> Self {
        let (head, rest) = if name.len() > 8 { (name.split_at(8).0, name.len() - 8) } else { (name, 0) };
        let head = low(head);
        if name.len() < 8 {
            return Self { len: name.len() as u32, head, tail: Self::tail_of_short(name.len() as u32, head) };
        }
        Self { len: name.len() as u32, head, tail: low(name.split_at(rest).1) }
    }

    /// The tail of a name shorter than eight bytes, from its head.
    #[inline(always)]
    pub const fn tail_of_short(len: u32, head: u64) -> u64 {
        if len == 0 { 0 } else { head << ((64 - 8 * (len & 7)) & 63) }
    }

    #[inline(always)]
    const fn starts_with<const N: usize>(self, text: [u8; N]) -> bool {
        (self.len as usize) >= N && (self.head ^ low(&text)) << (64 - 8 * N) == 0
    }

    #[inline(always)]
    const fn ends_with<const N: usize>(self, text: [u8; N]) -> bool {
        (self.len as usize) >= N && (self.tail >> (64 - 8 * N)) == low(&text)
    }

    /// Whether this is the name of etcd's snapshot directory.
    #[inline(always)]
    pub const fn is_snap(self) -> bool {
        self.len == 4 && self.starts_with(*b"snap")
    }
}

/// What a name says about a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The class.
    pub class: Class,
    /// The class holds only if the file's directory is `snap`, else it is [`Class::Other`].
    pub only_in_snap: bool,
}

/// The class of a file that is not a directory.
#[inline(always)]
pub const fn class_of(name: Name) -> Verdict {
    let (class, only_in_snap) = if name.ends_with(*b".wal") || is_preallocation(name) {
        (Class::Wal, false)
    } else if name.len == 2 && name.starts_with(*b"db") {
        (Class::Backend, true)
    } else if name.starts_with(*b"db.tmp.") {
        (Class::Defrag, false)
    } else if name.ends_with(*b".snap") || name.ends_with(*b".snap.db") {
        (Class::Snapshot, false)
    } else if name.starts_with(*b"tmp") {
        (Class::Snapshot, true)
    } else {
        (Class::Other, false)
    };
    Verdict { class, only_in_snap }
}

/// `0.tmp` … `9.tmp`: etcd's file pipeline alternates between 0 and 1 (server/storage/wal/file_pipeline.go, 3.4–3.7).
#[inline(always)]
const fn is_preallocation(name: Name) -> bool {
    let first = (name.head & 0xff) as u8;
    name.len == 5 && first >= b'0' && first <= b'9' && name.ends_with(*b".tmp")
}

#[cfg(test)]
mod tests;
