//! ClickHouse's compressed frames, as clients send them in the bodies of inserts.
//!
//! 16 bytes CityHash128 (v1.0.2, high half first) of the rest · method `0x82` (LZ4 block) or `0x02` (plain) · u32
//! size of header and data · u32 raw size · data. All little endian.

use bytes::{Buf, Bytes, BytesMut};

const CHECKSUM_BYTES: usize = 16;
const HEADER_BYTES: usize = 9;
const LZ4: u8 = 0x82;
const PLAIN: u8 = 0x02;

/// Largest frame, packed or raw. Clients send a few hundred KiB.
const MAX_FRAME_BYTES: usize = 64 << 20;

/// A damaged frame.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FrameError {
    /// The sizes are beyond the limit or do not fit each other.
    #[error("compressed frame has an impossible size")]
    Size,
    /// Another method than LZ4.
    #[error("compressed frame has method {0:#04x}, expected LZ4")]
    Method(u8),
    /// The checksum does not match.
    #[error("compressed frame is damaged: checksum does not match")]
    Checksum,
    /// The LZ4 data does not unpack to the size announced.
    #[error("compressed frame does not unpack")]
    Unpack,
    /// The body ends within a frame.
    #[error("body ends within a compressed frame")]
    CutOff,
}

/// `data` as a frame.
pub fn frame(data: &[u8]) -> Bytes {
    let packed = lz4_flex::block::compress(data);
    let mut frame = vec![0; CHECKSUM_BYTES];
    frame.push(LZ4);
    for size in [packed.len() + HEADER_BYTES, data.len()] {
        // Pieces of answers are far below 4 GiB.
        frame.extend(u32::try_from(size).unwrap_or(u32::MAX).to_le_bytes());
    }
    frame.extend(&packed);
    let checksum = cityhash_rs::cityhash_102_128(&frame[CHECKSUM_BYTES..]).rotate_right(64);
    frame[..CHECKSUM_BYTES].copy_from_slice(&checksum.to_le_bytes());
    frame.into()
}

/// Collects bytes and gives the raw data of whole frames.
#[derive(Default)]
pub struct Frames {
    pending: BytesMut,
}

impl Frames {
    /// Takes bytes in.
    pub fn push(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// The raw data of the next frame; `None` until it is there in full.
    ///
    /// # Errors
    /// When the frame is damaged: nothing that follows can be read.
    pub fn next_frame(&mut self) -> Result<Option<Bytes>, FrameError> {
        let Some(mut header) = self.pending.get(CHECKSUM_BYTES..CHECKSUM_BYTES + HEADER_BYTES) else {
            return Ok(None);
        };
        let (method, packed, raw) =
            (header.get_u8(), header.get_u32_le() as usize, header.get_u32_le() as usize);
        if method != LZ4 && method != PLAIN {
            return Err(FrameError::Method(method));
        }
        if !(HEADER_BYTES..=MAX_FRAME_BYTES).contains(&packed) || raw > MAX_FRAME_BYTES {
            return Err(FrameError::Size);
        }
        if self.pending.len() < CHECKSUM_BYTES + packed {
            return Ok(None);
        }
        let mut frame = self.pending.split_to(CHECKSUM_BYTES + packed);
        let checksum = frame.get_u128_le();
        if cityhash_rs::cityhash_102_128(&frame).rotate_right(64) != checksum {
            return Err(FrameError::Checksum);
        }
        frame.advance(HEADER_BYTES);
        if method == PLAIN {
            return if frame.len() == raw { Ok(Some(frame.freeze())) } else { Err(FrameError::Size) };
        }
        let data = lz4_flex::block::decompress(&frame, raw).map_err(|_| FrameError::Unpack)?;
        if data.len() == raw { Ok(Some(Bytes::from(data))) } else { Err(FrameError::Unpack) }
    }

    /// Checks that the body ended with a whole frame.
    ///
    /// # Errors
    /// When bytes are left over.
    pub fn finish(&self) -> Result<(), FrameError> {
        if self.pending.is_empty() { Ok(()) } else { Err(FrameError::CutOff) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(bytes: &[u8], cut: usize) -> Result<Vec<u8>, FrameError> {
        let (mut frames, mut read) = (Frames::default(), Vec::new());
        for chunk in bytes.chunks(cut) {
            frames.push(chunk);
            while let Some(data) = frames.next_frame()? {
                read.extend_from_slice(&data);
            }
        }
        frames.finish()?;
        Ok(read)
    }

    #[test]
    fn a_flipped_bit_is_found() {
        let good = frame(&[7; 5_000]);
        for position in 0..good.len() {
            let mut bad = good.to_vec();
            bad[position] ^= 0x10;
            assert!(read(&bad, 1_000).is_err(), "bit in byte {position}");
        }
    }

    #[test]
    fn a_body_that_ends_within_a_frame_is_refused() {
        let good = frame(b"rows and rows");
        assert_eq!(read(&good[..good.len() - 1], 7), Err(FrameError::CutOff));
    }

    proptest! {
        #[test]
        fn frames_cut_anywhere_read_back(data in prop::collection::vec(any::<u8>(), 0..3_000), cut in 1usize..400) {
            let mut body = frame(&data).to_vec();
            body.extend(frame(&data));
            let expected: Vec<u8> = data.iter().chain(&data).copied().collect();
            prop_assert_eq!(read(&body, cut).unwrap(), expected);
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..600), cut in 1usize..100) {
            let _ = read(&bytes, cut);
        }
    }
}
