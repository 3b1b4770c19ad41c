//! Whether the write-ahead log of an etcd that has ended is intact: its rolling CRC32C, read-only.

use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use etcdmon_service::foreign;
use prost::Message as _;

use crate::discover::wal::{ENTRIES_LIMIT, KIND_CHECKSUM, Record};

/// Only the newest segments are read: older ones were read at the last start already.
const SEGMENTS: usize = 2;

/// Longest record that etcd writes: a request of at most 10 MiB by its flags, and what is around it.
const RECORD_LIMIT: u64 = 16 << 20;

/// Cause and evidence of what is wrong with the newest segments; `None` when nothing is, or they can't be read.
pub fn check(wal_dir: &Path) -> Option<(&'static str, String)> {
    let entries = std::fs::read_dir(wal_dir).ok()?.take(ENTRIES_LIMIT).flatten();
    let mut segments: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "wal"))
        .collect();
    segments.sort();
    let newest = segments.len().saturating_sub(SEGMENTS);
    segments[newest..].iter().find_map(|path| {
        let file = foreign::open(path).ok()?;
        // A segment gets its name when its first records are written.
        if file.metadata().ok()?.len() == 0 {
            return Some(("wal_corrupt", format!("{} is empty", path.display())));
        }
        let offset = mismatch(BufReader::with_capacity(1 << 18, file))?;
        let evidence =
            format!("checksum of the record at byte {offset} of {} does not match", path.display());
        Some(("wal_crc_mismatch", evidence))
    })
}

/// Where the first record begins whose checksum does not match. A segment that is cut is not corrupt: etcd repairs it.
fn mismatch(mut segment: impl Read) -> Option<u64> {
    let (mut offset, mut crc) = (0_u64, None);
    let mut bytes = Vec::new();
    loop {
        let mut field = [0; 8];
        segment.read_exact(&mut field).ok()?;
        let field = u64::from_le_bytes(field);
        let length = field & ((1 << 56) - 1);
        let padding = if field >> 63 == 1 { field >> 56 & 0x7 } else { 0 };
        // Preallocated space.
        if length == 0 {
            return None;
        }
        if length > RECORD_LIMIT {
            return Some(offset);
        }
        bytes.resize((length + padding) as usize, 0);
        segment.read_exact(&mut bytes).ok()?;
        let Ok(record) = Record::decode(&bytes[..length as usize]) else { return Some(offset) };
        if record.kind == KIND_CHECKSUM {
            if crc.is_some_and(|crc| crc != record.crc) {
                return Some(offset);
            }
            crc = Some(record.crc);
        } else {
            let rolled = crc32c::crc32c_append(crc.unwrap_or(0), &record.data);
            if rolled != record.crc {
                return Some(offset);
            }
            crc = Some(rolled);
        }
        offset += 8 + length + padding;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(records: &[(i64, &[u8])]) -> Vec<u8> {
        let (mut crc, mut bytes) = (0, Vec::new());
        for (kind, data) in records {
            if *kind != KIND_CHECKSUM {
                crc = crc32c::crc32c_append(crc, data);
            }
            let record = Record { kind: *kind, crc, data: data.to_vec() }.encode_to_vec();
            let padding = (8 - record.len() % 8) % 8;
            let flag = if padding > 0 { (0x80 | padding as u64) << 56 } else { 0 };
            bytes.extend((record.len() as u64 | flag).to_le_bytes());
            bytes.extend(&record);
            bytes.resize(bytes.len() + padding, 0);
        }
        bytes
    }

    #[test]
    fn a_flipped_byte_is_found_and_a_torn_end_is_not_taken_for_one() {
        let intact =
            segment(&[(KIND_CHECKSUM, b""), (1, b"metadata"), (2, b"first entry"), (2, b"second entry")]);
        let mut preallocated = intact.clone();
        preallocated.resize(4096, 0);
        assert_eq!(mismatch(preallocated.as_slice()), None);
        for cut in 0..intact.len() {
            assert_eq!(mismatch(&intact[..cut]), None, "{cut}");
        }
        let at = intact.windows(5).position(|bytes| bytes == b"first").unwrap();
        let mut broken = intact;
        broken[at] ^= 1;
        assert!(mismatch(broken.as_slice()).is_some());
    }

    #[test]
    fn garbage_is_a_mismatch_and_nothing_is_none() {
        assert!(mismatch([0xff_u8; 64].as_slice()).is_some());
        assert_eq!(check(Path::new("/none")), None);
    }
}
