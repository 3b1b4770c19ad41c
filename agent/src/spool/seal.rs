//! Encryption of payloads at rest: AES-256-GCM under a key of the segment's own.
//!
//! A segment's key is HKDF-SHA256 of the operator's key and 16 random bytes in the segment's head, so a nonce has only to be unique
//! within the segment: it counts the writes to it, failed ones included. A process never appends to a segment of an earlier one,
//! so the count never starts again under the same key. The record's header is authenticated with the payload, but not
//! hidden: without the key it still says how much is lost when the segment has to go.

use std::path::Path;
use std::{fmt, io};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::{hkdf, rand};
use base64::Engine;

/// Size of a key file's content, raw.
const KEY_BYTES: usize = 32;

/// Size of what names a key.
pub const KEY_ID_BYTES: usize = 8;

/// Size of a segment's salt.
pub const SALT_BYTES: usize = 16;

/// Bytes that sealing adds to a payload.
pub const TAG_BYTES: usize = 16;

/// Largest key file that is read.
const MAX_FILE_BYTES: usize = 4096;

/// Why there is no key in a file.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It can't be read.
    #[error("can't be read: {0}")]
    Io(#[from] io::Error),
    /// It holds something else.
    #[error("holds no key: 32 bytes expected, raw or as base64")]
    Malformed,
}

/// How a segment is sealed; no secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sealing {
    /// Which key.
    pub key_id: [u8; KEY_ID_BYTES],
    /// What makes the segment's own key of it.
    pub salt: [u8; SALT_BYTES],
}

/// A key. Its bytes are never shown.
#[derive(Clone)]
pub struct Key {
    id: [u8; KEY_ID_BYTES],
    secret: hkdf::Prk,
}

impl Key {
    /// From 32 bytes.
    pub fn new(bytes: &[u8; KEY_BYTES]) -> Self {
        let secret = hkdf::Salt::new(hkdf::HKDF_SHA256, b"etcd-monitor spool").extract(bytes);
        let mut id = [0; KEY_ID_BYTES];
        expand(&secret, &[b"key id"], &mut id);
        Self { id, secret }
    }

    /// From a file with 32 bytes, raw or as base64 with or without a newline.
    ///
    /// # Errors
    /// When it can't be read or holds something else.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let bytes = std::fs::read(path)?;
        if let Ok(raw) = <&[u8; KEY_BYTES]>::try_from(bytes.as_slice()) {
            return Ok(Self::new(raw));
        }
        if bytes.len() > MAX_FILE_BYTES {
            return Err(KeyError::Malformed);
        }
        let text = bytes.trim_ascii();
        let decoded =
            base64::engine::general_purpose::STANDARD.decode(text).map_err(|_| KeyError::Malformed)?;
        let key: [u8; KEY_BYTES] = decoded.try_into().map_err(|_| KeyError::Malformed)?;
        Ok(Self::new(&key))
    }

    fn sealer(&self, salt: &[u8; SALT_BYTES]) -> Option<Sealer> {
        let mut key = [0; KEY_BYTES];
        expand(&self.secret, &[b"segment", salt], &mut key);
        UnboundKey::new(&AES_256_GCM, &key).ok().map(|key| Sealer(LessSafeKey::new(key)))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Key(***)")
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

fn expand(secret: &hkdf::Prk, info: &[&[u8]], out: &mut [u8]) {
    struct Length(usize);
    impl hkdf::KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }
    secret
        .expand(info, Length(out.len()))
        .and_then(|material| material.fill(out))
        .expect("HKDF-SHA256 yields up to 8,160 bytes");
}

/// The keys of a spool: one that seals, and others that only open what was sealed before.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Keys {
    /// Seals; without it payloads are written as they are.
    pub current: Option<Key>,
    /// Opens what an earlier agent sealed with it.
    pub old: Option<Key>,
}

impl Keys {
    /// For a new segment; `None` when nothing is sealed.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn seal(&self) -> io::Result<Option<(Sealing, Sealer)>> {
        let Some(key) = &self.current else { return Ok(None) };
        let mut salt = [0; SALT_BYTES];
        rand::fill(&mut salt).map_err(|_| io::Error::other("no randomness"))?;
        let sealer = key.sealer(&salt).ok_or_else(|| io::Error::other("no key for the segment"))?;
        Ok(Some((Sealing { key_id: key.id, salt }, sealer)))
    }

    /// For a segment that is there; `None` when the key isn't known.
    pub fn open(&self, sealing: &Sealing) -> Option<Sealer> {
        let known = [&self.current, &self.old].into_iter().flatten();
        known.filter(|key| key.id == sealing.key_id).find_map(|key| key.sealer(&sealing.salt))
    }
}

/// Seals and opens the payloads of one segment.
#[derive(Debug)]
pub struct Sealer(LessSafeKey);

impl Sealer {
    /// Seals in place; the tag belongs behind it.
    ///
    /// # Errors
    /// When the payload is larger than AES-GCM allows.
    pub fn seal(&self, attempt: u32, bound: &[u8], payload: &mut [u8]) -> io::Result<[u8; TAG_BYTES]> {
        let tag = self
            .0
            .seal_in_place_separate_tag(nonce(attempt), Aad::from(bound), payload)
            .map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut bytes = [0; TAG_BYTES];
        bytes.copy_from_slice(tag.as_ref());
        Ok(bytes)
    }

    /// Opens in place, and cuts the tag off.
    ///
    /// # Errors
    /// When it isn't what was sealed under this header.
    pub fn open(&self, attempt: u32, bound: &[u8], stored: &mut Vec<u8>) -> io::Result<()> {
        let opened = self.0.open_in_place(nonce(attempt), Aad::from(bound), stored);
        let length = opened.map_err(|_| io::ErrorKind::InvalidData)?.len();
        stored.truncate(length);
        Ok(())
    }
}

fn nonce(attempt: u32) -> Nonce {
    let mut bytes = [0; 12];
    bytes[8..].copy_from_slice(&attempt.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_raw_or_as_base64_and_never_shown() {
        let directory = tempfile::tempdir().expect("temp dir");
        let path = directory.path().join("key");
        std::fs::write(&path, [7; 32]).expect("write");
        let raw = Key::read(&path).expect("raw");
        std::fs::write(&path, format!("{}\n", base64::engine::general_purpose::STANDARD.encode([7; 32])))
            .expect("write");
        assert_eq!(Key::read(&path).expect("base64"), raw);
        assert_eq!(format!("{raw:?}"), "Key(***)");
        for nonsense in [b"short".as_slice(), &[0; 33], b"", &[b'A'; 44]] {
            std::fs::write(&path, nonsense).expect("write");
            let error = Key::read(&path).expect_err("no key").to_string();
            assert_eq!(error, "holds no key: 32 bytes expected, raw or as base64");
        }
    }

    #[test]
    fn what_is_sealed_opens_only_as_it_was_bound() {
        let keys = Keys { current: Some(Key::new(&[1; 32])), old: None };
        let (sealing, sealer) = keys.seal().expect("random").expect("a key");
        let mut sealed = b"facts".to_vec();
        let tag = sealer.seal(3, b"header", &mut sealed).expect("small");
        sealed.extend(tag);
        let opener = keys.open(&sealing).expect("the key is there");
        for (attempt, bound) in [(4, b"header"), (3, b"headeR")] {
            opener.open(attempt, bound, &mut sealed.clone()).expect_err("not what was sealed");
        }
        opener.open(3, b"header", &mut sealed).expect("as it was");
        assert_eq!(sealed, b"facts");
        let rotated = Keys { current: Some(Key::new(&[2; 32])), old: keys.current.clone() };
        assert!(rotated.open(&sealing).is_some(), "the old key still opens");
        assert!(Keys { old: None, ..rotated }.open(&sealing).is_none());
    }
}
