//! The identity of a label set, computed as Prometheus and Alertmanager do, so that both show the same one.

use std::fmt;
use std::str::FromStr;

use crate::rule::Labels;

/// FNV-1a over the sorted label names and values, each followed by 0xff. Shown as 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(u64);

const OFFSET: u64 = 14_695_981_039_346_656_037;
const PRIME: u64 = 1_099_511_628_211;

impl Fingerprint {
    /// Of a label set.
    pub fn of(labels: &Labels) -> Self {
        let texts = labels.iter().flat_map(|(name, value)| [name, value]);
        Self(texts.fold(OFFSET, |hash, text| add(add(hash, text.as_bytes()), &[0xff])))
    }
}

fn add(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(PRIME))
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:016x}", self.0)
    }
}

impl FromStr for Fingerprint {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u64::from_str_radix(text, 16).map(Self)
    }
}
