//! Reads the arrays of places in which the programs keep what is under way, as `etcdmon_agent_ebpf::place` describes, and
//! gives back what will not be seen to end. Neither side waits for the other.

use std::{
    os::fd::AsFd as _,
    sync::atomic::{Ordering, fence},
};

use aya::maps::Map;
use etcdmon_agent_ebpf::place::{BEING_WRITTEN, FREE, PLACES};

use super::{ProbeError, mapped::Mapped, start::map_error};

/// An array of places whose values have `N` words.
#[derive(Debug)]
pub(super) struct Places<const N: usize>(Mapped);

impl<const N: usize> Places<N> {
    /// Words of a place: the key and the value.
    const STRIDE: usize = N + 1;

    /// Maps an array.
    pub fn new(map: Map, name: &'static str) -> Result<Self, ProbeError> {
        let Map::Array(data) = map else { return Err(map_error(name, "not an array")) };
        let mapped = Mapped::writable(data.fd().as_fd(), PLACES * Self::STRIDE);
        mapped.map(Self).map_err(|source| map_error(name, source))
    }

    /// What is under way, in no order.
    pub fn values(&self) -> impl Iterator<Item = [u64; N]> {
        (0..PLACES).filter_map(|place| {
            let key = self.key(place)?;
            let value = self.value(place);
            // Between them the copy was made.
            (self.key(place) == Some(key)).then_some(value)
        })
    }

    /// Gives back every place whose key and value are of what will not be seen to end. A program that ends it meanwhile is first.
    /// Returns how many.
    pub fn give_back(&self, is_over: impl Fn(u64, [u64; N]) -> bool) -> u64 {
        let mut given_back = 0;
        for place in 0..PLACES {
            let Some(key) = self.key(place) else { continue };
            let value = self.value(place);
            // The same key may have begun anew since: what lies there must still be what was looked at.
            let is_same = || self.key(place) == Some(key) && self.value(place) == value;
            if is_over(key, value) && is_same() && self.0.exchange(place * Self::STRIDE, key, FREE) {
                given_back += 1;
            }
        }
        given_back
    }

    fn key(&self, place: usize) -> Option<u64> {
        fence(Ordering::Acquire);
        let key = self.0.word(place * Self::STRIDE);
        fence(Ordering::Acquire);
        (key != FREE && key != BEING_WRITTEN).then_some(key)
    }

    fn value(&self, place: usize) -> [u64; N] {
        std::array::from_fn(|word| self.0.word(place * Self::STRIDE + 1 + word))
    }
}
