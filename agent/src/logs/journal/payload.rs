//! Values that journald compressed, each on its own: those longer than 512 bytes, as long log lines are.

/// Flags of a value.
const XZ: u8 = 1;
const LZ4: u8 = 2;
const ZSTD: u8 = 4;

/// What came of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payload {
    /// It is there in full.
    Whole,
    /// It is longer than the limit; nothing was unpacked.
    TooLong,
    /// It is damaged, or compressed in a way that is not read: xz, which systemd only writes where it was built
    /// without lz4 and zstd.
    Unreadable,
}

/// Unpacks a value of at most `limit` bytes.
pub fn unpack(flags: u8, packed: &[u8], limit: usize, into: &mut Vec<u8>) -> Payload {
    into.clear();
    match flags & (XZ | LZ4 | ZSTD) {
        0 if packed.len() > limit => return Payload::TooLong,
        0 => into.extend_from_slice(packed),
        LZ4 => return lz4(packed, limit, into),
        ZSTD => return zstd(packed, limit, into),
        _ => return Payload::Unreadable,
    }
    Payload::Whole
}

/// The unpacked length in 8 bytes, then a block.
fn lz4(packed: &[u8], limit: usize, into: &mut Vec<u8>) -> Payload {
    let Some((length, block)) = packed.split_first_chunk::<8>() else { return Payload::Unreadable };
    let Some(length) = usize::try_from(u64::from_le_bytes(*length)).ok().filter(|length| *length <= limit)
    else {
        return Payload::TooLong;
    };
    into.resize(length, 0);
    match lz4_flex::block::decompress_into(block, into) {
        Ok(count) if count == length => Payload::Whole,
        _ => Payload::Unreadable,
    }
}

/// A frame that names its unpacked length.
fn zstd(packed: &[u8], limit: usize, into: &mut Vec<u8>) -> Payload {
    match zstd::zstd_safe::get_frame_content_size(packed) {
        Ok(Some(length)) if length > limit as u64 => return Payload::TooLong,
        Ok(Some(_)) => {}
        _ => return Payload::Unreadable,
    }
    into.reserve(limit);
    let unpacked =
        zstd::bulk::Decompressor::new().and_then(|mut zstd| zstd.decompress_to_buffer(packed, into));
    if unpacked.is_ok() { Payload::Whole } else { Payload::Unreadable }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 1000;

    fn of(flags: u8, packed: &[u8]) -> (Payload, Vec<u8>) {
        let mut into = Vec::new();
        let outcome = unpack(flags, packed, LIMIT, &mut into);
        (outcome, into)
    }

    fn lz4_of(text: &[u8]) -> Vec<u8> {
        [&(text.len() as u64).to_le_bytes()[..], &lz4_flex::block::compress(text)].concat()
    }

    #[test]
    fn both_kinds_are_unpacked_up_to_the_limit() {
        let text = b"MESSAGE=".repeat(100);
        let long = b"MESSAGE=".repeat(126);
        assert_eq!(of(0, &text), (Payload::Whole, text.clone()));
        assert_eq!(of(LZ4, &lz4_of(&text)), (Payload::Whole, text.clone()));
        let packed = |text: &[u8]| zstd::bulk::compress(text, 3).unwrap();
        assert_eq!(of(ZSTD, &packed(&text)), (Payload::Whole, text.clone()));
        for (flags, packed) in [(0, long.clone()), (LZ4, lz4_of(&long)), (ZSTD, packed(&long))] {
            assert_eq!(of(flags, &packed).0, Payload::TooLong, "{flags}");
        }
    }

    #[test]
    fn what_is_damaged_or_xz_is_unreadable() {
        for (flags, packed) in [
            (XZ, &b"\xfd7zXZ\0"[..]),
            (LZ4, b"short"),
            (LZ4, b"\x09\0\0\0\0\0\0\0garbage"),
            (ZSTD, b""),
            (ZSTD, b"garbage"),
            (LZ4 | ZSTD, b"both"),
        ] {
            assert_eq!(of(flags, packed).0, Payload::Unreadable, "{flags} {packed:?}");
        }
        let mut torn = zstd::bulk::compress(&b"MESSAGE=".repeat(100), 3).unwrap();
        torn.truncate(torn.len() - 3);
        assert_eq!(of(ZSTD, &torn).0, Payload::Unreadable);
        // Says that it is huge.
        assert_eq!(of(LZ4, &[0xff; 20]).0, Payload::TooLong);
    }
}
