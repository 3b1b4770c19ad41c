//! Cluster and member id as etcd's write-ahead log names them.
//!
//! The first two records of every segment are a checksum and the metadata (`server/storage/wal/wal.go` `Create`, `cut`),
//! and the metadata holds node and cluster id. Reading them needs no request to etcd, so a member is known while it is
//! still starting, or stuck. Only the first bytes of a segment are read, and nothing is ever written.

use std::io::{self, Read};
use std::path::Path;

use etcdmon_service::foreign;
use prost::Message;

/// Enough for the checksum record and the metadata record, which are about 24 and 40 bytes.
const HEAD_BYTES: usize = 512;

/// Entries of a WAL directory that are looked at; etcd keeps five segments unless told otherwise.
pub(crate) const ENTRIES_LIMIT: usize = 20_000;

/// `walpb.Record.type` of the metadata.
const KIND_METADATA: i64 = 1;

/// `walpb.Record.type` of a checksum.
pub(crate) const KIND_CHECKSUM: i64 = 4;

/// etcd's own identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MemberIdentity {
    /// Cluster id of etcd.
    pub cluster_id: u64,
    /// Member id of etcd.
    pub member_id: u64,
}

/// `walpb.Record`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Record {
    /// What it is.
    #[prost(int64, tag = "1")]
    pub(crate) kind: i64,
    /// Rolling CRC32C over the data of all records so far.
    #[prost(uint32, tag = "2")]
    pub(crate) crc: u32,
    /// Its content.
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) data: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct Metadata {
    #[prost(uint64, tag = "1")]
    node_id: u64,
    #[prost(uint64, tag = "2")]
    cluster_id: u64,
}

/// Reads the identity from the newest segment of a WAL directory. `None` when there is no segment with one yet.
///
/// # Errors
/// When the directory can't be listed.
pub fn read_identity(wal_dir: &Path) -> io::Result<Option<MemberIdentity>> {
    let mut newest: Option<std::ffi::OsString> = None;
    for entry in std::fs::read_dir(wal_dir)?.take(ENTRIES_LIMIT) {
        let name = entry?.file_name();
        if name.as_encoded_bytes().ends_with(b".wal") && newest.as_ref().is_none_or(|best| *best < name) {
            newest = Some(name);
        }
    }
    let Some(name) = newest else { return Ok(None) };
    let mut head = Vec::with_capacity(HEAD_BYTES);
    foreign::open(&wal_dir.join(name))?.take(HEAD_BYTES as u64).read_to_end(&mut head)?;
    Ok(parse_head(&head))
}

/// The identity in the first bytes of a segment.
fn parse_head(mut head: &[u8]) -> Option<MemberIdentity> {
    while let Some((field, rest)) = head.split_first_chunk::<8>() {
        // Record length in the low 56 bits; the top byte says how many bytes pad it to eight.
        let field = u64::from_le_bytes(*field);
        let length = usize::try_from(field & ((1 << 56) - 1)).ok()?;
        let padding = if field >> 63 == 1 { usize::from((field >> 56) as u8 & 0x7) } else { 0 };
        let record = Record::decode(rest.get(..length).filter(|bytes| !bytes.is_empty())?).ok()?;
        match record.kind {
            KIND_METADATA => {
                let metadata = Metadata::decode(record.data.as_slice()).ok()?;
                let identity =
                    MemberIdentity { cluster_id: metadata.cluster_id, member_id: metadata.node_id };
                return (metadata.node_id != 0 && metadata.cluster_id != 0).then_some(identity);
            }
            KIND_CHECKSUM => head = rest.get(length + padding..)?,
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: i64, data: &[u8]) -> Vec<u8> {
        let record = Record { kind, crc: 7, data: data.to_vec() }.encode_to_vec();
        let padding = (8 - record.len() % 8) % 8;
        let mut field = record.len() as u64;
        if padding > 0 {
            field |= (0x80 | padding as u64) << 56;
        }
        let mut bytes = field.to_le_bytes().to_vec();
        bytes.extend(record);
        bytes.resize(bytes.len() + padding, 0);
        bytes
    }

    #[test]
    fn the_metadata_behind_the_checksum_names_the_member() {
        let metadata = Metadata { node_id: 0x8e9e_05c5_2164_694d, cluster_id: 0xcdf8_1818_3a4d_c5f6 };
        let mut head = frame(KIND_CHECKSUM, &[]);
        head.extend(frame(KIND_METADATA, &metadata.encode_to_vec()));
        let identity = MemberIdentity { cluster_id: metadata.cluster_id, member_id: metadata.node_id };
        assert_eq!(parse_head(&head), Some(identity));
        for cut in 0..head.len() - 8 {
            let _short = parse_head(&head[..cut]);
        }
    }

    #[test]
    fn an_empty_preallocated_or_foreign_file_names_nobody() {
        assert_eq!(parse_head(&[]), None);
        assert_eq!(parse_head(&[0; HEAD_BYTES]), None);
        assert_eq!(parse_head(&[0xff; HEAD_BYTES]), None);
        assert_eq!(parse_head(&frame(2, b"entry")), None);
    }

    #[test]
    fn the_newest_segment_counts_and_a_missing_directory_is_an_error() {
        let directory = tempfile::tempdir().expect("temp dir");
        assert_eq!(read_identity(directory.path()).expect("readable"), None);
        for (name, node_id) in
            [("0000000000000000-0000000000000000.wal", 1), ("0000000000000001-00000000000003e8.wal", 2)]
        {
            let metadata = Metadata { node_id, cluster_id: 9 };
            let mut head = frame(KIND_CHECKSUM, &[]);
            head.extend(frame(KIND_METADATA, &metadata.encode_to_vec()));
            std::fs::write(directory.path().join(name), head).expect("write");
        }
        std::fs::write(directory.path().join("1.tmp"), [0; 64]).expect("write");
        let found = read_identity(directory.path()).expect("readable");
        assert_eq!(found, Some(MemberIdentity { cluster_id: 9, member_id: 2 }));
        assert!(read_identity(&directory.path().join("none")).is_err());
    }
}
