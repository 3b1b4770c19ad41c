//! One file of journald, read by position and never mapped: another process writes it, and may truncate it.
//!
//! The format is the documented one (<https://systemd.io/JOURNAL_FILE_FORMAT>). What is used of it, little-endian throughout:
//!
//! ```text
//! header  0 "LPKSHHRH"  12 incompatible flags  16 state  88 its size  152 entries  176 first entry array
//! object  0 type  1 flags  8 size, header included
//! array   16 next array  24 offsets of entries, in their order; 0 = not written yet
//! entry   24 realtime µs  40 boot id  64 offsets of its data objects
//! data    64 payload `FIELD=value`, at 72 in compact files; there the offsets above have 4 bytes and no hash beside them
//! ```
//!
//! Objects are only ever appended, so offsets rise along the chain of arrays and along its entries: where they don't, the file is
//! damaged, and no chain can be followed in a circle. The values of an entry that are new lie right before it, those it
//! shares with others further up; what is known of the latter is kept, so that an entry of somebody else costs no read of its own.

use std::collections::HashMap;
use std::fs::File;

use super::bytes::{Bytes, Fault, damaged, u32_at, u64_at};
use super::payload::{self, Payload};

/// Of the header: up to where it names its entries.
const HEADER_BYTES: usize = 208;

/// Incompatible flags known here: xz, lz4, keyed hashes (hashes are not used), zstd, compact.
const KNOWN_FLAGS: u32 = 0b1_1111;
const COMPACT: u32 = 0b1_0000;

const DATA: u8 = 1;
const ENTRY: u8 = 3;
const ENTRY_ARRAY: u8 = 6;

/// Fixed parts of an array and of an entry.
const ARRAY_HEAD: usize = 24;
const ENTRY_HEAD: usize = 64;

/// Most data objects of an entry: journald refuses more.
const ITEMS_LIMIT: usize = 1024;

/// Arrays in the chain; each is larger than the one before.
const ARRAYS_LIMIT: usize = 4096;

/// Offsets of entries read at once.
const SLOTS: usize = 256;

/// Begin of a data object that is enough to tell it.
const PEEK: usize = 72 + 96;

/// Values kept in mind; beyond it all are forgotten.
const KNOWN_LIMIT: usize = 8192;

/// An entry without its values.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// When journald got it, Unix microseconds.
    pub realtime_us: u64,
    /// Boot of the machine that wrote it.
    pub boot_id: [u8; 16],
    /// Offsets of its data objects.
    pub items: Vec<u64>,
}

/// A piece of the index of entries.
#[derive(Debug, Clone, Copy)]
struct Array {
    at: u64,
    /// Number of its first entry in the file.
    first: u64,
    slots: u64,
}

/// A file, and what is known of the values `K` of its entries.
#[derive(Debug)]
pub struct JournalFile<K> {
    bytes: Bytes,
    compact: bool,
    /// Entries in it, as its header said last.
    pub entries: u64,
    /// Nobody writes to it any more.
    pub archived: bool,
    first_array: u64,
    arrays: Vec<Array>,
    known: HashMap<u64, K>,
    /// End of the entry read last.
    after: u64,
}

impl<K: Copy> JournalFile<K> {
    /// Reads the header.
    ///
    /// # Errors
    /// When it is no journal, or one of a kind that is not known.
    pub fn open(file: File) -> Result<Self, Fault> {
        let mut journal = Self {
            bytes: Bytes::new(file),
            compact: false,
            entries: 0,
            archived: false,
            first_array: 0,
            arrays: Vec::new(),
            known: HashMap::new(),
            after: 0,
        };
        journal.refresh()?;
        Ok(journal)
    }

    /// Reads the header again: how many entries there are. One small read.
    ///
    /// # Errors
    /// As [`Self::open`], and when there are fewer entries than before.
    pub fn refresh(&mut self) -> Result<(), Fault> {
        self.bytes.forget();
        let header: [u8; HEADER_BYTES] = self.bytes.exact(0)?;
        if !header.starts_with(b"LPKSHHRH") || u64_at(&header, 88) < HEADER_BYTES as u64 {
            return Err(damaged("no header of a journal", 0));
        }
        let flags = u32_at(&header, 12);
        if flags & !KNOWN_FLAGS != 0 {
            return Err(Fault::Unknown(flags & !KNOWN_FLAGS));
        }
        let entries = u64_at(&header, 152);
        if entries < self.entries {
            return Err(damaged("fewer entries than before", 152));
        }
        self.compact = flags & COMPACT != 0;
        self.entries = entries;
        self.archived = header[16] == 2;
        self.first_array = u64_at(&header, 176);
        Ok(())
    }

    /// Bytes read since the last call.
    pub const fn take_spent(&mut self) -> usize {
        self.bytes.take_spent()
    }

    /// Offsets of entries from number `index` on: some of them, or none when they are not written yet.
    ///
    /// # Errors
    /// When the index of entries is damaged.
    pub fn offsets(&mut self, index: u64, into: &mut Vec<u64>) -> Result<(), Fault> {
        into.clear();
        let Some(array) = self.array_of(index)? else { return Ok(()) };
        let item = if self.compact { 4 } else { 8 };
        let skip = index - array.first;
        let count = (array.slots - skip).min(self.entries.saturating_sub(index)).min(SLOTS as u64) as usize;
        let at = array.at + ARRAY_HEAD as u64 + skip * item as u64;
        let slots = self.bytes.get(at, count * item)?;
        for slot in slots.chunks_exact(item) {
            let offset = if item == 4 { u64::from(u32_at(slot, 0)) } else { u64_at(slot, 0) };
            if offset == 0 {
                break;
            }
            if into.last().is_some_and(|last| offset <= *last) {
                return Err(damaged("entries out of order", at));
            }
            into.push(offset);
        }
        Ok(())
    }

    /// The array that holds entry number `index`; `None` when it does not exist yet.
    fn array_of(&mut self, index: u64) -> Result<Option<Array>, Fault> {
        loop {
            let found = self.arrays.iter().rev().find(|array| array.first <= index);
            if let Some(array) = found.filter(|array| index - array.first < array.slots) {
                return Ok(Some(*array));
            }
            let (next, before) = match self.arrays.last() {
                None => (self.first_array, 0),
                Some(last) => (u64_at(&self.bytes.exact::<8>(last.at + 16)?, 0), last.at),
            };
            if next == 0 {
                return Ok(None);
            }
            if next <= before || self.arrays.len() >= ARRAYS_LIMIT {
                return Err(damaged("a chain of arrays that does not rise", before));
            }
            let head: [u8; ARRAY_HEAD] = self.bytes.exact(next)?;
            let item = if self.compact { 4 } else { 8 };
            let slots = u64_at(&head, 8).saturating_sub(ARRAY_HEAD as u64) / item;
            if head[0] != ENTRY_ARRAY || slots == 0 || slots > u64::from(u32::MAX) {
                return Err(damaged("no array of entries", next));
            }
            let first = self.arrays.last().map_or(0, |last| last.first + last.slots);
            self.arrays.push(Array { at: next, first, slots });
        }
    }

    /// Number of the first entry at or after `realtime_us`, not before number `from`.
    ///
    /// # Errors
    /// When what is looked at is damaged.
    pub fn since(&mut self, realtime_us: u64, from: u64) -> Result<u64, Fault> {
        let (mut low, mut high) = (from, self.entries);
        let mut offsets = Vec::new();
        while low < high {
            let middle = low + (high - low) / 2;
            self.offsets(middle, &mut offsets)?;
            let Some(at) = offsets.first() else { return Err(damaged("no place of an entry", middle)) };
            let head: [u8; ENTRY_HEAD] = self.bytes.exact(*at)?;
            if head[0] != ENTRY {
                return Err(damaged("no entry", *at));
            }
            if u64_at(&head, 24) < realtime_us { low = middle + 1 } else { high = middle }
        }
        Ok(low)
    }

    /// Reads the entry at `at`; `until` is the last one that will be asked for soon.
    ///
    /// # Errors
    /// When there is none, or none that makes sense.
    pub fn entry(&mut self, at: u64, until: u64, into: &mut Entry) -> Result<(), Fault> {
        self.bytes.cover(self.after, at, until)?;
        let head: [u8; ENTRY_HEAD] = self.bytes.exact(at)?;
        let item = if self.compact { 4 } else { 16 };
        let size = u64_at(&head, 8);
        let items = size.saturating_sub(ENTRY_HEAD as u64) / item as u64;
        if head[0] != ENTRY || items == 0 || items > ITEMS_LIMIT as u64 {
            return Err(damaged("no entry", at));
        }
        self.after = at.saturating_add(size);
        into.realtime_us = u64_at(&head, 24);
        into.boot_id.copy_from_slice(&head[40..56]);
        into.items.clear();
        let wanted = items as usize * item;
        let list = self.bytes.get(at + ENTRY_HEAD as u64, wanted)?;
        if list.len() < wanted {
            return Err(damaged("the file ends too early", at));
        }
        let offset = |item: &[u8]| if item.len() == 4 { u64::from(u32_at(item, 0)) } else { u64_at(item, 0) };
        into.items.extend(list.chunks_exact(item).map(offset));
        Ok(())
    }

    /// What the value at `at` is, by the begin of its payload (96 bytes at least, when it has them) and its true length; `None`
    /// for one that is compressed. Only values further up are kept in mind: the others are rarely seen again.
    ///
    /// # Errors
    /// When there is no value.
    pub fn tell(&mut self, at: u64, tell: impl FnOnce(Option<(&[u8], u64)>) -> K) -> Result<K, Fault> {
        if let Some(known) = self.known.get(&at) {
            return Ok(*known);
        }
        let shared = at < self.bytes.begin();
        let begin = self.payload_at();
        let object = self.bytes.get(at, PEEK)?;
        let (flags, length) = value_head(object, begin, at)?;
        let shown = object.len().min(begin.saturating_add(usize::try_from(length).unwrap_or(usize::MAX)));
        let told = tell((flags == 0).then(|| (object.get(begin..shown).unwrap_or_default(), length)));
        if shared {
            if self.known.len() >= KNOWN_LIMIT {
                self.known.clear();
            }
            self.known.insert(at, told);
        }
        Ok(told)
    }

    /// The value at `at` in full, unpacked.
    ///
    /// # Errors
    /// When there is none. That it is too long or can't be unpacked is no error.
    pub fn payload(&mut self, at: u64, limit: usize, into: &mut Vec<u8>) -> Result<Payload, Fault> {
        let begin = self.payload_at();
        let (flags, length) = value_head(self.bytes.get(at, 16)?, begin, at)?;
        // What is longer packed is longer unpacked.
        if length > limit as u64 {
            return Ok(Payload::TooLong);
        }
        let object = self.bytes.get(at, begin + length as usize)?;
        let packed = object.get(begin..).filter(|packed| packed.len() as u64 == length);
        let packed = packed.ok_or_else(|| damaged("the file ends too early", at))?;
        Ok(payload::unpack(flags, packed, limit, into))
    }

    const fn payload_at(&self) -> usize {
        if self.compact { 72 } else { 64 }
    }
}

/// Flags of a value, and the length of its payload.
fn value_head(object: &[u8], payload_at: usize, at: u64) -> Result<(u8, u64), Fault> {
    let length = object.get(8..16).and_then(|size| u64_at(size, 0).checked_sub(payload_at as u64));
    match (object.first(), length) {
        (Some(&DATA), Some(length)) => Ok((object[1], length)),
        _ => Err(damaged("no value", at)),
    }
}
